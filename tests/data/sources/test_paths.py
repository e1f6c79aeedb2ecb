"""From a name to files: one that exists stands for itself, whatever signs it holds."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from torchrl_drpo.data import ItemTable, LogError, LogSchema, convert_log
from torchrl_drpo.data.sources import LogSource
from torchrl_drpo.data.sources.paths import resolve


@pytest.fixture(params=["disk", "memory"])
def root(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"


def write(file: str, text: str = "u,r\n1,1\n") -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True) if "://" not in file else None
    with fsspec.open(file, "w") as handle:
        handle.write(text)


def names(root: str, source: str) -> list[str]:
    start = f"{root.rpartition('/')[2]}/"
    return [file.rpartition(start)[2] for file in resolve(f"{root}/{source}", ())]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("log[1].csv", ["log[1].csv"]),  # a browser's second download
        ("log?.csv", ["log?.csv"]),
        ("_hidden.csv", ["_hidden.csv"]),  # left out of folders, but here it is named
        ("log[12].csv", ["log1.csv", "log2.csv"]),
        ("day[1]", ["day[1]/a.csv", "day[1]/b.csv"]),
        ("day[1]/a.csv", ["day[1]/a.csv"]),
        ("day[1]/[ab].csv", ["day[1]/a.csv", "day[1]/b.csv"]),
        ("day[1]/*", ["day[1]/a.csv", "day[1]/b.csv"]),
        ("day[2]/*.csv", ["day2/a.csv"]),  # no such folder: here it is a pattern
        ("*/a.csv", ["day2/a.csv", "day[1]/a.csv"]),
    ],
)
def test_names_and_patterns(root, source, expected):
    for file in ("log[1].csv", "log1.csv", "log2.csv", "log?.csv", "_hidden.csv", "day[1]/a.csv",
                 "day[1]/b.csv", "day2/a.csv"):  # fmt: skip
        write(f"{root}/{file}")
    assert names(root, source) == expected


def test_lists_keep_their_order_and_nothing_is_an_error(root):
    write(f"{root}/b.csv")
    write(f"{root}/a[1].csv")
    assert len(LogSource([f"{root}/b.csv", f"{root}/a[1].csv"]).files) == 2
    for source in (f"{root}/c.csv", f"{root}/a[2].csv", f"{root}/*.parquet", f"{root}/[1"):
        with pytest.raises(FileNotFoundError, match="no log file matches"):
            resolve(source, ())
    with pytest.raises(FileNotFoundError, match="empty list"):
        resolve([], ())


def test_a_table_beside_a_log_in_a_folder_with_brackets(tmp_path):
    folder = tmp_path / "logs [2022]"
    write(f"{folder}/log.csv", "u,i,t,r\n1,5,2,1\n")
    write(f"{folder}/items[1].csv", "id\n5\n6\n")
    schema = LogSchema(
        user="u", item="i", time="t", quality="r", items=ItemTable("items[1].csv", "id")
    )
    assert convert_log(folder, tmp_path / "out", schema).items == 2
    write(f"{folder}/log.parquet")
    with pytest.raises(LogError, match="holds Parquet and CSV files"):
        resolve(str(folder), ())
