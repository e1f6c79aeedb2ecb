"""Files as they are published: any delimiter, packed, without a header, JSON lines, folders."""

from __future__ import annotations

import bz2
import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.data import (
    ItemTable,
    LogError,
    LogSchema,
    RecReplayBuffer,
    TextFiles,
    convert_log,
)
from torchrl_drpo.data.sources import LogSource, delimited, jsonlines
from torchrl_drpo.data.sources.delimiters import Replaced, find_delimiter
from torchrl_drpo.data.sources.reading import Reading

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r")
ROWS = [[1, 10, 5, 0.5], [1, 11, 7, 1.0], [2, 10, 6, 2.5]]


def is_the_log(log, items=(10, 11, 10)) -> bool:
    read = (log.items.decode(log[:]["action"]), log[:]["time"].tolist(), log.quality.tolist())
    return read[0] == list(items) and len(read[1]) == 3 and read[2] == [0.5, 1.0, 2.5]


def text(sign: str, *head: str) -> bytes:
    lines = [*head, *(sign.join(map(str, row)) for row in ROWS)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("name", "sign"),
    [("a.dat", "::"), ("a.txt", " "), ("a.txt", "\t"), ("a.dat", "\t"), ("a.csv", "|"),
     ("a.csv", ";"), ("a.inter", "\t"), ("a.dat.gz", "::")],
)  # fmt: skip
@pytest.mark.parametrize("header", [True, False])
def test_delimiters_are_seen_with_a_header_and_without(tmp_path, name, sign, header):
    content = text(sign, sign.join("uitr")) if header else text(sign)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    schema = SCHEMA if header else SCHEMA.replace(files=TextFiles(header=["u", "i", "t", "r"]))
    assert is_the_log(RecReplayBuffer.from_parquet(tmp_path / name, schema))


def test_a_delimiter_that_was_not_seen_is_said_and_can_be_given(tmp_path):
    (tmp_path / "a.csv").write_bytes(text("~", "u~i~t~r"))
    with pytest.raises(LogError, match=r"it has \['u~i~t~r'\]; its columns .* separated by ','"):
        RecReplayBuffer.from_parquet(tmp_path / "a.csv", SCHEMA)
    for sign in ("~", "<>"):
        (tmp_path / "a.csv").write_bytes(text(sign, sign.join("uitr")))
        schema = SCHEMA.replace(files=TextFiles(delimiter=sign))
        assert is_the_log(RecReplayBuffer.from_parquet(tmp_path / "a.csv", schema))


@pytest.mark.parametrize(
    ("sample", "sign"),
    [
        ("a,b\n", ","),
        ("user name\nx y z\n", ","),  # one column, in which there are blanks
        ('"a;b;c",d\n"e;f;g",h\n', ","),
        ("t;price,eur\n1;2,5\n2;3,5\n", ";,"),
        ("1::2,5::3\n2::3,5::4\n", "::"),
        ("1|2|3\n4|5|6\n", "|"),
        ("", ","),
    ],
)
def test_delimiters_by_their_count(sample, sign):
    assert find_delimiter(sample, ",") in sign


@settings(deadline=None)
@given(
    data=st.binary(max_size=60),
    word=st.sampled_from([b"::", b"ab", b":::"]),
    size=st.integers(1, 9),
)
def test_words_are_replaced_wherever_blocks_end(data, word, size):
    data = data.replace(b"\x00", word).replace(b"\x01", word[:1])
    stream = Replaced(pa.BufferReader(data), word, b"\x1f")
    parts = iter(lambda: stream.read(size), b"")
    assert b"".join(parts) == data.replace(word, b"\x1f")


def test_atomic_files_of_recbole_are_named_without_their_types(tmp_path):
    head = "u:token\ti:token\tt:float\tr:float\twords:token_seq"
    rows = "\n".join("\t".join([*map(str, row), "a b"]) for row in ROWS)
    (tmp_path / "ml.inter").write_text(f"{head}\n{rows}\n")
    (tmp_path / "ml.item").write_text("i:token\n10\n")  # beside the log, and no part of it
    assert is_the_log(RecReplayBuffer.from_parquet(tmp_path, SCHEMA))
    (tmp_path / "ml.inter").write_text(f"{head.replace('words:token_seq', 'words')}\n{rows}\n")
    with pytest.raises(LogError, match=r"no column 'u'; it has .'u:token'"):
        RecReplayBuffer.from_parquet(tmp_path, SCHEMA)


PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_packed_files(tmp_path, packed, kind):
    lines = [json.dumps(dict(zip("uitr", row, strict=True))) for row in ROWS]
    content = text(",", "u,i,t,r") if kind == ".csv" else "\n".join(lines).encode()
    (tmp_path / f"a{kind}{packed}").write_bytes(PACK[packed](content))
    assert is_the_log(RecReplayBuffer.from_parquet(tmp_path, SCHEMA))
    (tmp_path / f"a{kind}{packed}").write_bytes(content)  # not packed, whatever its name says
    with pytest.raises(LogError, match=r"cannot be read: .*of another format than its name says"):
        RecReplayBuffer.from_parquet(tmp_path, SCHEMA)


def test_encodings_are_named_with_their_line_and_can_be_given(tmp_path):
    rows = [f"{u},cafe{i},{t},{r}" for u, i, t, r in ROWS]
    rows[1] = rows[1].replace("cafe", "caf\u00e9")
    (tmp_path / "a.csv").write_bytes("\n".join(["u,i,t,r", *rows]).encode("latin-1"))
    with pytest.raises(LogError, match=r"a.csv, line 3: b'1,caf.xe911,.*encoding.: .latin-1"):
        RecReplayBuffer.from_parquet(tmp_path / "a.csv", SCHEMA)
    schema = SCHEMA.replace(files=TextFiles(encoding="latin-1"))
    log = RecReplayBuffer.from_parquet(tmp_path / "a.csv", schema)
    assert is_the_log(log, ["cafe10", "caf\u00e911", "cafe10"])
    (tmp_path / "a.csv").write_bytes("\n".join(["u,i,t,r", *rows]).encode("utf-16"))
    schema = SCHEMA.replace(files=TextFiles(encoding="utf-16"))
    log = RecReplayBuffer.from_parquet(tmp_path / "a.csv", schema)
    assert is_the_log(log, ["cafe10", "caf\u00e911", "cafe10"])


def test_a_byte_that_is_no_text_is_found_far_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "HEADER_BYTES", 60)
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 400)
    rows = [f"1,{k},{k},1" for k in range(300)]
    rows[250] = "1,\xff,250,1"
    (tmp_path / "a.csv").write_bytes("\n".join(["u,i,t,r", *rows]).encode("latin-1"))
    with pytest.raises(LogError, match=r"line 252: .*no UTF-8 text"):
        convert_log(tmp_path / "a.csv", tmp_path / "out", SCHEMA)


@pytest.mark.parametrize("block", [40, 1 << 20])
def test_json_lines_have_one_type_over_all_of_them(tmp_path, monkeypatch, block):
    monkeypatch.setattr(jsonlines, "BLOCK_BYTES", block)
    rows = [dict(zip("uitr", row, strict=True)) for row in ROWS]
    rows[0]["r"] = 0  # an integer first, a fraction later
    rows[2]["later"] = {"a": [1]}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    log = RecReplayBuffer.from_parquet(tmp_path / "a.jsonl", SCHEMA)
    assert log.quality.tolist() == [0, 1.0, 2.5]
    named = [{**row, "i": text} for row, text in zip(rows, ["007", "2024-05-01", ""], strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, named)))
    log = RecReplayBuffer.from_parquet(tmp_path / "a.jsonl", SCHEMA, bad_rows="drop")
    assert log.items.decode(range(2)) == ["007", "2024-05-01"]
    assert log.report.dropped == {"missing id in i": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['[{"u": 1}]'], r"a.json holds no JSON lines: it begins with '\['.*pandas.read_json"),
        (['{"u": 1, "i": 1, "t": 1, "r": 1}', '{"u": 1, "i": "x", "t": 1, "r": 1}'],
         "(changed from number to string|of one kind in some lines)"),
        (['{"u": 1, "i": 1, "t": 1, "r": {"click": 1}}'],
         r"'r' has type struct<click: int64>, .*take its fields out"),
        (['{"u": 1, "i": 1, "t": 1, "r": 1', '{"u": 1}'], "a.json cannot be read: .*JSON"),
        ([" "], "a.json holds nothing but blanks"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("block", [30, 1 << 20])
def test_json_that_is_no_table_is_refused(tmp_path, monkeypatch, lines, message, block):
    monkeypatch.setattr(jsonlines, "BLOCK_BYTES", block)
    (tmp_path / "a.json").write_text("\n".join(lines))
    with pytest.raises(LogError, match=message):
        RecReplayBuffer.from_parquet(tmp_path / "a.json", SCHEMA)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_folders_named_by_key_and_value_are_columns(tmp_path, form):
    frame = pd.DataFrame(ROWS, columns=list("uitr"))
    frame["u"] = ["01", "01", "2"]
    frame["shop"] = ["C\u00f4te", "x y", None]
    keys = ds.partitioning(pa.schema([("u", pa.string()), ("shop", pa.string())]), flavor="hive")
    ds.write_dataset(pa.table(frame), tmp_path / "log", format=form, partitioning=keys)
    source = LogSource(tmp_path / "log", ids=["u", "shop"])
    found = pa.Table.from_batches([b.table.select(["u", "i", "shop"]) for b in source.batches()])
    assert sorted(zip(*found.to_pydict().values(), strict=True), key=str) == sorted(
        [("01", 10, "C\u00f4te"), ("01", 11, "x y"), ("2", 10, None)], key=str
    )
    log = RecReplayBuffer.from_parquet(tmp_path / "log", SCHEMA)
    assert is_the_log(log, (10, 11, 10))
    assert log.users.decode(range(2)) == ["01", "2"]


def test_keys_of_folders_are_typed_over_all_of_them_and_a_files_own_column_prevails(tmp_path):
    for day, rows in (("7", ROWS[:2]), ("8.5", ROWS[2:])):
        folder = tmp_path / "log" / f"day={day}" / "r=99"
        folder.mkdir(parents=True)
        pq.write_table(
            pa.table(dict(zip("uitr", zip(*rows, strict=True), strict=True))), folder / "a.parquet"
        )
    log = RecReplayBuffer.from_parquet(tmp_path / "log", SCHEMA.replace(labels=("day",)))
    assert is_the_log(log)
    assert log.column("day").tolist() == [7, 7, 8.5]


def test_what_a_schema_says_in_vain_is_refused(tmp_path):
    table = pa.table(dict(zip("uitr", zip(*ROWS, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "a.parquet")
    schema = SCHEMA.replace(files=TextFiles(encoding="latin-1"))
    with pytest.raises(LogError, match=r"a.parquet is no text file, but .*latin-1.*leave that out"):
        RecReplayBuffer.from_parquet(tmp_path / "a.parquet", schema)
    with pytest.raises(LogError, match="'t' holds integer times, but time_format says how texts"):
        RecReplayBuffer.from_parquet(table, SCHEMA.replace(time_format="%Y%m%d"))


def test_notes_beside_a_log_are_no_part_of_it(tmp_path):
    (tmp_path / "a.csv").write_bytes(text(",", "u,i,t,r"))
    (tmp_path / "README.txt").write_text("Cite us.")
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    assert is_the_log(RecReplayBuffer.from_parquet(tmp_path, SCHEMA))
    (tmp_path / "a.csv").rename(tmp_path / "a.xls")
    with pytest.raises(LogError, match=r"a.xls is neither Parquet .* nor JSON lines"):
        RecReplayBuffer.from_parquet(tmp_path / "a.xls", SCHEMA)


def test_movielens_1m_goes_in_as_it_is_published(tmp_path):
    """Two files without a header, two colons between columns, titles in Latin-1."""
    ratings = ["1::1193::5::978300760", "1::661::3::978302109", "2::1193::4::978298413"]
    (tmp_path / "ratings.dat").write_text("\n".join(ratings))
    movies = (
        '661::James: the Giant, 1996::Animation|Musical\n1193::Caf\u00e9::Drama\n7::"X"::Drama\n'
    )
    (tmp_path / "movies.dat").write_bytes(movies.encode("latin-1"))
    table = TextFiles(header=["movie", "title", "genres"], encoding="latin-1")
    schema = LogSchema(
        user="user", item="movie", time="time", quality="rating",
        files=TextFiles(header=["user", "movie", "rating", "time"]),
        items=ItemTable("movies.dat", "movie", files=table),
    )  # fmt: skip
    log = RecReplayBuffer.from_parquet(tmp_path, schema)
    assert log.items.decode(range(3)) == [7, 661, 1193]
    assert log.items.decode(log[:]["action"]) == [1193, 661, 1193]
    titles = LogSource(tmp_path / "movies.dat", reading=Reading(files=table))
    found = next(titles.batches(["title"])).table.column(0).to_pylist()
    assert found == ["James: the Giant, 1996", "Caf\u00e9", '"X"']
