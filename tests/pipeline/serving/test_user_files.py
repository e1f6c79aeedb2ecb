"""``drpo recommend --users``: a file in, a file out, the lists of one user each."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.pipeline.serving.served import KINDS, V, checkpoint
from torchrl_drpo import cli
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.serving import user_files
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request


def rows_of(out: Path) -> dict[int, list]:
    """Items of each user, checked to be in the order of their ranks."""
    read = pq.read_table if out.suffix == ".parquet" else pyarrow.csv.read_csv
    found: dict[int, list] = {}
    for row in read(out).to_pylist():
        found.setdefault(row["user"], []).append(row)
        assert row["rank"] == len(found[row["user"]])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["users.txt", "users.csv", "users.parquet"])
def test_every_user_gets_the_list_that_he_would_get_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setattr(user_files, "USERS_AT_A_TIME", 2)  # blocks of unlike histories
    model, users, out = checkpoint(kind), tmp_path / name, tmp_path / "recs.parquet"
    order = [8, 7, 9, 7, 8]
    if name.endswith("parquet"):
        pq.write_table(pa.table({"who": order}), users)
    else:
        users.write_text("\n".join(["who"] * name.endswith("csv") + list(map(str, order))))
    done = user_files.write_lists(Recommender(model), Request(k=4, exclude=["v11"]), users, out)
    assert done == {"users": 5, "places": 20}
    table = pq.read_table(out)
    assert table.schema.names == ["user", "rank", "item", "score"]
    assert table["user"].to_pylist() == [user for user in order for _ in range(4)]
    wanted = [recommend(model, user, k=4, exclude=["v11"]) for user in order]
    assert table["item"].to_pylist() == [place.item for each in wanted for place in each]
    scores = [place.score for each in wanted for place in each]
    assert table["score"].to_pylist() == pytest.approx(scores, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_say_what_is_so_now(tmp_path: Path, kind: str) -> None:
    model, users, out = checkpoint(kind), tmp_path / "users.csv", tmp_path / "recs.csv"
    users.write_text("age,who,tab\n,7,6\n3.5,9,\n-1,404,5\n,8,\n")
    request = Request(k=V, cold_start=True, exclude_seen=False)
    user_files.write_lists(Recommender(model), request, users, out)
    found = rows_of(out)
    alone = {
        7: recommend(model, 7, k=V, exclude_seen=False, context=[6]),
        9: recommend(model, 9, k=V, features=[3.5]),
        404: recommend(model, 404, k=V, cold_start=True, context=[5], features=[-1.0]),
        8: recommend(model, 8, k=V, exclude_seen=False),
    }
    assert list(found) == list(alone)
    for user, places in alone.items():
        assert [row["item"] for row in found[user]] == [place.item for place in places]


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_propensities(tmp_path: Path, capsys, kind: str) -> None:
    checkpoint(kind).save(tmp_path / "policy")
    (tmp_path / "users.txt").write_text("7\n9\n\n")
    (tmp_path / "allow.csv").write_text("item,shelf\nv7,1\nv8,2\nv9,1\nv10,4\nv3,1\nnone,1\n")
    out = tmp_path / "deep" / "recs.parquet"
    arguments = (
        f"recommend --checkpoint {tmp_path}/policy --users {tmp_path}/users.txt --output {out} "
        f"--k 9 --sample --temperature 2 --top-p 1 --seed 3 --allow {tmp_path}/allow.csv"
    )
    assert cli.main(arguments.split()) == 0
    said = capsys.readouterr()
    assert "9 places for 2 users" in said.out
    assert "1 of 6 items are not known" in said.err
    found = rows_of(out)
    assert {row["item"] for row in found[7]} == {"v7", "v8", "v9", "v10"}
    assert {row["item"] for row in found[9]} == {"v3", "v7", "v8", "v9", "v10"}
    assert found[7][-1]["propensity"] == pytest.approx(1.0)
    assert all(0 < row["propensity"] <= 1 for row in found[9])
    first = out.read_bytes()
    assert cli.main([*arguments.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"users": 2, "places": 9}
    assert pq.read_table(out).equals(pq.read_table(pa.BufferReader(first)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("users.txt", "7\n404\n", r"users.txt, row 1 \(from 0\): user '404' is not among the 3"),
        ("users.csv", "a,b\n7,1\n", "has no column 'who' or 'user', but 'a', 'b'"),
        ("users.csv", "who,tab\n7,4\n,6\n", "row 1 names no user"),
        ("users.csv", "who,age\n7,old\n", "feature age must be numbers"),
        ("users.csv", "who,age\n7,inf\n", "feature age must be finite .* row 0"),
        ("users.csv", "who,who\n7,7\n", "names 'who' twice"),
        ("users.csv", "", "is empty"),
        ("users.json", "7", "expected a name that ends with .parquet"),
        ("users.parquet", "no parquet", "cannot be read as parquet"),
    ],
)
def test_a_file_that_does_not_fit_leaves_what_was_there(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    users, out = tmp_path / name, tmp_path / "recs.csv"
    users.write_text(text)
    out.write_text("what was there")
    with pytest.raises(ValueError, match=message):
        user_files.write_lists(Recommender(checkpoint("catalogue")), Request(), users, out)
    assert out.read_text() == "what was there"
    assert {path.name for path in tmp_path.iterdir()} == {name, "recs.csv"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--users u.txt", "--users and --output go together"),
        ("--users u.txt --output r.csv --user 7", "--user and --users exclude each other"),
        ("--serve --history v1", "--history is of one user"),
        ("--serve --context 4", "--context and --features are of one user"),
        ("--user 7 --top-p 0.5", "are of drawn lists"),
        ("--user 7 --sample --top-p 0", "--top-p in (0, 1]"),
        ("--user 7 --sample --index hnsw", "leave --index out"),
        ("--user 7 --k 0", "k must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys, options: str, message: str) -> None:
    assert cli.main(["recommend", "--checkpoint", "nowhere", *options.split()]) == 2
    assert message in capsys.readouterr().err
