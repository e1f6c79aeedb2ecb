"""Files of ratings: what is read, what is left out, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reproduction.randomised.small_ratings import USERS, frame, write
from torchrl_drpo.reproduction.randomised.ratings import CHOOSING_GROUPS, GROUPS, read_ratings


def test_ratings_are_those_of_the_file(tmp_path: Path) -> None:
    rows = frame()
    found = read_ratings(write(tmp_path / "ratings.parquet", rows))
    kinds = {kind: rows[rows.exposure == kind] for kind in ("self_selected", "random")}
    chosen = {(u, i): r for u, i, r, _ in kinds["self_selected"].itertuples(index=False)}
    shown = {(u, i): r for u, i, r, _ in kinds["random"].itertuples(index=False)}
    columns = (found.train.user, found.train.item, found.train.rating)
    pairs = {(int(u), int(i)): int(r) for u, i, r in zip(*columns, strict=True)}
    assert pairs == chosen  # ids were 0, 1, ... already
    columns = (found.judged.user, found.judged.item, found.judged.rating)
    pairs = {(int(u), int(i)): int(r) for u, i, r in zip(*columns, strict=True)}
    assert pairs == {pair: r for pair, r in shown.items() if pair not in chosen}
    assert found.known_pairs == len(shown.keys() & chosen.keys()) > 0
    assert found.train.quality.unique().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_csv_of_text_ids_is_read_alike(tmp_path: Path) -> None:
    rows = frame()
    named = rows.assign(user="u" + rows.user.map("{:03d}".format), extra=1.5)
    one = read_ratings(write(tmp_path / "a.parquet", rows))
    other = read_ratings(write(tmp_path / "b.csv", named))
    assert one.facts() == other.facts()
    assert (one.train.user == other.train.user).all()
    assert (one.group == other.group).all()


def test_a_third_of_the_users_choose_and_users_without_training_rows_do_not_judge(
    tmp_path: Path,
) -> None:
    rows = frame()
    rows = rows[(rows.user != 7) | (rows.exposure == "random")]
    found = read_ratings(write(tmp_path / "ratings.csv", rows))
    assert found.unknown_users == 1
    assert 7 not in found.judged.user
    assert found.group[7] == -1
    facts = found.facts()
    assert facts["choosing_users"] + facts["reporting_users"] == USERS - 1
    assert facts["choosing_users"] == sum(n % GROUPS < CHOOSING_GROUPS for n in range(USERS - 1))


def _changed(column: str, value: object, row: int = 3) -> pd.DataFrame:
    rows = frame().astype({column: object})
    rows.loc[row, column] = value
    return rows


RATING = "ratings: .* has rating {} in row 3 .1 such rows.; each is a whole number from 1 to 5"
WRONG = {
    "no rating": (frame().drop(columns="rating"), "lacks 'rating' .it has 'user', 'item', 'exp"),
    "no rows": (frame()[:0], "has no rows"),
    "zero": (_changed("rating", 0).astype({"rating": int}), RATING.format(0)),
    "half a star": (_changed("rating", 3.5).astype({"rating": float}), RATING.format(3.5)),
    "stars": (frame().assign(rating="***"), r"has ratings of type object, e.g. '\*\*\*'"),
    "nothing": (_changed("user", None), "has no user in row 3 .1 such rows.; drop them"),
    "not a number": (
        _changed("rating", np.nan).astype({"rating": float}), "(no rating|rating nan) in row 3"
    ),
    "another kind": (
        _changed("exposure", "uniform"),
        "has exposure 'uniform' in row 3 .*each is 'self_selected' or 'random'",
    ),
    "one kind": (
        frame().assign(exposure="random").drop_duplicates(["user", "item"]),
        "has no rows of exposure 'self_selected'; both kinds are needed",
    ),
    "twice": (
        pd.concat([frame(), frame()[4:5]]),
        "user .* rates item .* more than once under exposure",
    ),
    "few users": (frame().query("user < 12"), "has 12 users with ratings of both kinds; at least"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_wrong_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    rows, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        read_ratings(write(tmp_path / "wrong.parquet", rows))
    assert "\n" not in str(error.value)
    assert "wrong.parquet" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "ratings.txt",
            b"1 2 3",
            "has the ending '.txt'; ratings are read from",
        ),
        ("ratings.parquet", b"no parquet", "cannot be read: "),
    ],
)
def test_a_file_of_another_kind_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_ratings(tmp_path / name)


def test_coat_is_read_whole(real_logs: Path) -> None:
    facts = read_ratings(real_logs / "coat" / "ratings.parquet").facts()
    assert (facts["users"], facts["items"], facts["train_rows"]) == (290, 300, 6_960)
    assert facts["judged_rows"] + facts["known_pairs"] == 4_640
