from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.data import Catalogue

TEXT = st.one_of(st.text(st.characters(codec="utf-8"), max_size=6), st.text("a\0", max_size=40))
IDS = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=40),
    st.lists(st.integers(0, 60), min_size=1, max_size=40),
    st.lists(TEXT, min_size=1, max_size=40),
)


@settings(deadline=None)
@given(ids=IDS)
def test_encode_and_decode_are_inverse_and_ascending(ids):
    catalogue = Catalogue.from_ids(ids)
    expected = sorted(set(ids), key=lambda i: i.encode() if isinstance(i, str) else i)
    assert catalogue.decode(range(len(catalogue))) == expected
    number = catalogue.encode(np.array(ids, dtype=object))
    assert [expected[n] for n in number] == ids


@settings(deadline=None, max_examples=30)
@given(ids=IDS)
def test_save_and_load(ids, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "context.tab"
    catalogue = Catalogue.from_ids(ids)
    catalogue.save(path)
    assert Catalogue.load(path) == catalogue


def test_ids_of_any_length_and_ending_stay_apart(tmp_path):
    ids = ["a", "a\0", "a\0\0", "", "L" * 3_000_000, "L" * 3_000_001]
    catalogue = Catalogue.from_ids([*ids, *(f"k{n}" for n in range(20_000))])  # 60 GB if padded
    assert catalogue.decode(catalogue.encode(ids)) == ids
    catalogue.save(tmp_path / "c")
    assert Catalogue.load(tmp_path / "c").encode(ids).tolist() == catalogue.encode(ids).tolist()


def test_files_that_do_not_fit_are_refused(tmp_path):
    for name, ids in (("text", ["ab", "c"]), ("numbers", [5, 7])):
        Catalogue(ids).save(tmp_path / name)
    for file, content, message in [
        ("text.lengths.bin", b"\1\0\0\0", "does not fit"),
        ("text.lengths.bin", b"\1", "does not fit"),
        ("text.lengths.bin", b"\xff" * 8, "does not fit"),
        ("text.bin", b"abcd", "does not fit"),
        ("text.json", b'{"kind": "string", "count": 3}', "expected 3 ids, found 2"),
        ("text.json", b"[]", "does not describe a catalogue"),
        ("numbers.bin", b"12345", "no whole number of int64"),
        ("numbers.bin", b"12345678", "expected 2 ids, found 1"),
        ("numbers.bin", b"\5" * 16, "must be distinct"),
    ]:
        path = tmp_path / file
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Catalogue.load(tmp_path / file.partition(".")[0])
        path.write_bytes(before)
    assert Catalogue.load(tmp_path / "text") == Catalogue(["ab", "c"])


def test_half_a_character_is_no_id():
    with pytest.raises(ValueError, match="is no text"):
        Catalogue(["a", "b\ud800"])


def test_extension_keeps_the_numbers():
    old = Catalogue.from_ids([5, 900_000_000_000, 7])
    new = old.extended([6, 5, 1])
    assert new.decode(range(5)) == [5, 7, 900_000_000_000, 1, 6]
    assert old.extended([5]) is old


def test_unknown_ids():
    catalogue = Catalogue.from_ids(["a", "é"])
    assert catalogue.encode(["é", "b"], unknown="missing").tolist() == [1, -1]
    with pytest.raises(KeyError, match="id 'b' is not in the catalogue of 2 string ids"):
        catalogue.encode(["a", "b"])
    with pytest.raises(KeyError, match="id 3 is not"):
        catalogue.encode(torch.tensor([3]))
    with pytest.raises(IndexError, match=r"lie in \[0, 2\), got 2"):
        catalogue.decode([0, 2])


def test_mixed_or_repeated_ids_are_refused():
    with pytest.raises(ValueError, match="all integers or all strings"):
        Catalogue.from_ids(["a", 1])
    with pytest.raises(ValueError, match="distinct; 3 repeats"):
        Catalogue([3, 3])
    with pytest.raises(ValueError, match="integers or strings, got float64"):
        Catalogue(np.array([0.5]))


INTEGERS = [3, 5, 50, -7, 0, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("number", range(len(INTEGERS)))
def test_an_integer_is_found_by_itself_and_by_its_own_spelling(number):
    users = Catalogue(INTEGERS)
    raw = INTEGERS[number]
    assert users.find(raw) == users.find(str(raw)) == users.find(np.int64(raw)) == number


@pytest.mark.parametrize(
    "raw",
    [
        "+5", "5_0", " 5", "5 ", "05", "-0", "+0", "0x5", "5.0", "5e0", "", "-", "--7", "- 7",
        "\u0663", "\uff15", "\u00b3", "5\n", "None", "\udc80",
        2**63, -(2**63) - 1, 10**30, str(2**63), str(-(2**63) - 1), "9" * 30, "9" * 6_000, 4, "4",
    ],
)  # fmt: skip
def test_another_spelling_finds_nothing(raw):
    assert Catalogue(INTEGERS).find(raw) == -1


def test_texts_are_found_as_they_are():
    words = ["None", "-J1x", "007", "7", "", "\u0663"]
    users = Catalogue(words)
    assert [users.find(word) for word in words] == list(range(len(words)))
    assert [users.find(raw) for raw in ("none", "07", 7, 10**30, "\udc80")] == [-1] * 5
    assert Catalogue([]).find("7") == Catalogue([]).find(7) == -1


@pytest.mark.parametrize("numbers", [[1.7], torch.tensor([0.0]), np.array([True]), [None]])
def test_numbers_that_are_no_integers_decode_to_nothing(numbers):
    with pytest.raises(IndexError, match="catalogue numbers are integers, got"):
        Catalogue([30, 10]).decode(numbers)
