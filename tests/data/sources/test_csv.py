"""CSV files: what a column holds is decided over every row of every file, never by its looks."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchrl_drpo.data import LogError, LogSchema, RecReplayBuffer, convert_log
from torchrl_drpo.data.sources import LogSource, delimited

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r")
HEADER = "u,i,t,r\n"
MISSING = {"", "NA", "NULL", "nan"}  # a number's; a name may be any text but none
SPELLINGS = [
    "7", "07", "-7", "+7", " 7", "7.0", "", "NA", "NULL", "nan", "0", "-0", "00", "1e3", "0x7",
    "abc", "\u0663", "7_0", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "true", "2022-05-01", "a,b", 'a"b', "a\nb",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 120)


def write(path: Path, *columns: list[str], header: str = "u,i,t,r") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header.split(",")[: len(columns)])
        writer.writerows(zip(*columns, strict=True))
    return path


def values(source: LogSource, column: str) -> list:
    batches = source.batches([column])
    return list(itertools.chain(*(batch.table.column(0).to_pylist() for batch in batches)))


def expected_ids(texts: list[str]) -> list:
    """By Python's own reading of an integer: one spelling of each, or that and pandas' 7.0."""
    written = [text for text in texts if text not in MISSING]
    canonical = all(
        re.fullmatch(r"0|-?[1-9][0-9]*", t) and -(2**63) <= int(t) < 2**63 for t in written
    )
    whole = all(
        re.fullmatch(r"(0|-?[1-9][0-9]*)(\.0)?", t) and abs(float(t)) < 2**53 for t in written
    )
    if written and (canonical or whole):
        return [None if text in MISSING else int(text.removesuffix(".0")) for text in texts]
    return [text or None for text in texts]


IDS = st.lists(
    st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=60), min_size=1, max_size=3
)
QUICK = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(
    files=st.one_of(
        IDS,
        *(
            st.lists(st.lists(st.sampled_from(some), min_size=1))
            for some in (["7", "12", "", "-3"], ["7.0", "7", "", "-3.0", "9007199254740993.0"])
        ),
    )
)
def test_ids_are_text_until_every_one_is_spelled_as_an_integer(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("ids")
    files = files or [["7"]]
    for number, texts in enumerate(files):
        write(folder / f"{number:02}.csv", texts, ["1"] * len(texts))
    source = LogSource(folder, ids=["u"])
    assert values(source, "u") == expected_ids([text for texts in files for text in texts])
    assert values(source, "i") == [1] * sum(map(len, files))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("files", "kind", "expected"),
    [
        ([["1", "2"], ["0.5", "NA"]], "float", [1.0, 2.0, 0.5, None]),
        ([["1"] * 40 + ["1e2"]], "float", [1.0] * 40 + [100.0]),
        ([["", "NA"], ["007", " 8", "-9 "]], "integer", [None, None, 7, 8, -9]),
        ([["true"], ["FALSE"] * 40], "boolean", [True, *[False] * 40]),
        ([["1"], ["9223372036854775808"]], "float", [1.0, 2.0**63]),
        ([["inf"], ["1"]], "float", [float("inf"), 1.0]),
    ],
)
def test_numbers_have_one_kind_whatever_comes_first(tmp_path, files, kind, expected, reverse):
    order = list(range(len(files)))[:: -1 if reverse else 1]
    for place, number in enumerate(order):
        write(tmp_path / f"{place}.csv", files[number], ["x"] * len(files[number]))
    source = LogSource(tmp_path, ids=["i"])
    assert source.kinds(["u"]) == {"u": kind}
    assert len(set(source.types("u"))) == 1
    in_order = iter(expected)
    chunks = [list(itertools.islice(in_order, len(texts))) for texts in files]
    assert values(source, "u") == [value for number in order for value in chunks[number]]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2022-05-01", "1969-12-31"], "date32[day]"),
        (["2022-05-01"] * 30 + ["2022-05-01 10:00:01"], "timestamp[s]"),
        (["2022-05-01 10:00:01"] * 30 + ["1969-12-31 23:59:59.000000001"], "timestamp[ns]"),
        (["2022-05-01 10:00:01+09:00"] * 30 + ["1969-12-31 23:59:59Z"], "timestamp[s, tz=UTC]"),
    ],
)
def test_times_are_read_as_finely_as_any_of_them_is_written(tmp_path, texts, expected):
    write(tmp_path / "a.csv", ["1"] * len(texts), texts)
    source = LogSource(tmp_path / "a.csv", ids=["u"])
    assert source.kinds(["i"]) == {"i": "time"}
    assert [str(of_type) for of_type in source.types("i")] == [expected]
    assert list(map(pd.Timestamp, values(source, "i"))) == list(map(pd.Timestamp, texts))


def test_a_stray_text_among_numbers_is_named_with_its_row(tmp_path):
    write(tmp_path / "a.csv", ["1"] * 3, ["1"] * 3, ["5"] * 3, ["1"] * 3)
    far = ["1"] * 50 + ["much"] + ["2"] * 20
    write(tmp_path / "b.csv", ["2"] * 71, ["2"] * 71, ["6"] * 71, far)
    with pytest.raises(LogError, match=r"b.csv, row 50: r is 'much', where the schema expects num"):
        convert_log(tmp_path / "*.csv", tmp_path / "out", SCHEMA)
    write(tmp_path / "empty.csv", ["1"], ["1"], ["5"], ["NA"])
    with pytest.raises(LogError, match=r"column 'r' holds nothing in .*empty.csv; fill it"):
        convert_log(tmp_path / "empty.csv", tmp_path / "out", SCHEMA)


def test_leading_zeros_stay_and_a_missing_name_is_missing(tmp_path):
    rows = "007,0439893577,1,1\n7,0439893577,2,0\n08,0001,3,1\n,0001,4,1\n"
    (tmp_path / "a.csv").write_text(HEADER + rows)
    with pytest.raises(LogError, match="row 3: missing id: u is null"):
        RecReplayBuffer.from_parquet(tmp_path / "a.csv", SCHEMA)
    log = RecReplayBuffer.from_parquet(tmp_path / "a.csv", SCHEMA, bad_rows="drop")
    assert log.report.dropped == {"missing id in u": 1}
    assert log.users.decode(range(3)) == ["007", "08", "7"]
    assert log.items.decode(log[:]["action"]) == ["0439893577", "0001", "0439893577"]


@pytest.mark.parametrize("role", ["context", "session", "slate", "policy", "split"])
def test_every_name_keeps_its_spelling(tmp_path, role):
    """``07`` and ``7`` are two sessions, two categories, two parts, and none is one of neither."""
    write(tmp_path / "a.csv", ["1"] * 4, ["1", "2", "3", "4"], ["1", "2", "3", "4"], ["1"] * 4,
          ["07", "7", "7", "7"], header="u,i,t,r,x")  # fmt: skip
    schema = SCHEMA.replace(**{role: ("x",) if role == "context" else "x"})
    log = RecReplayBuffer.from_parquet(tmp_path / "a.csv", schema)
    counts = {
        "context": lambda: log.context_sizes[0],
        "session": lambda: log.report.trajectories,
        "slate": lambda: log.report.slates,
        "policy": lambda: len(log[:]["policy"].unique()),
        "split": lambda: len(log.report.parts),
    }
    assert counts[role]() == 2
    text = (tmp_path / "a.csv").read_text().replace(",07", ",")
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(LogError, match="row 0: missing id: x is null"):
        RecReplayBuffer.from_parquet(tmp_path / "a.csv", schema)


ROWS = [["1", "2", "1651300001", "1"], ["1", "3", "1651300002", "0"]]


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize(
    ("name", "sign"),
    [("a.csv", ","), ("a.csv.gz", ","), ("a.tsv", "\t"), ("a.tsv.gz", "\t"), ("a.TSV", ","),
     ("a.csv", ";"), ("a.csv", "\t"), ("a.CSV.GZ", "|")],
)  # fmt: skip
def test_files_are_read_alike_everywhere(tmp_path, where, name, sign):
    text = "\n".join(sign.join(row) for row in [SCHEMA.columns, *ROWS]).encode()
    text = b"\xef\xbb\xbf" + text  # Excel's mark
    content = gzip.compress(text) if name.lower().endswith("gz") else text
    target = f"memory://{tmp_path.name}/{name}" if where == "memory" else str(tmp_path / name)
    with fsspec.open(target, "wb") as file:
        file.write(content)
    log = RecReplayBuffer.from_parquet(target, SCHEMA)
    assert log.items.decode(log[:]["action"]) == [2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u,i,t,r\n1,2,3,4".encode("utf-16"), "is text in UTF-16; .*--encoding utf-16"),
        (b"u,i,t,r\n1,2,3\n", "cannot be read: .*Expected 4 columns, got 3"),
        (
            "u,i,t,r\n\u00e9,2,3,4\n".encode("latin-1"),
            "a.csv, line 2: .* is no UTF-8 text, .*latin-1",
        ),
        (
            b"1,2,3,4\n5,6,7,8\n",
            r"has no column 'u'; it has \['1', '2', '3', '4'\]; its columns "
            r"were taken to be separated by ',', and its first line to name them",
        ),
        (b"u,i,t,r\n", "the log has no rows"),
        (b"u,i,t,u\n1,2,3,4\n", "a.csv has 2 columns named 'u'; rename them"),
        (b"u;i;t;r\n1;2;3;0,5\n", "row 0: r is '0,5', where the schema expects numbers"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(LogError, match=message):
        convert_log(tmp_path / "a.csv", tmp_path / "out", SCHEMA)


def test_a_header_may_be_longer_than_what_is_read_for_it(tmp_path):
    long = "x" * delimited.HEADER_BYTES
    write(tmp_path / "a.csv", ["7"], ["8"], header=f"u,{long}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", 1 << 20)
        assert values(LogSource(tmp_path / "a.csv", ids=["u"]), long) == [8]


def test_a_line_break_within_quotes_may_lie_anywhere(tmp_path):
    titles = [f"title {'x' * k}\nof {k}" for k in range(60)]
    ids = [str(k) for k in range(60)]
    write(tmp_path / "a.csv", titles, ids)
    assert values(LogSource(tmp_path / "a.csv", ids=["u"]), "u") == titles
