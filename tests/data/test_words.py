"""Columns of byte strings, held against Python's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.data import words as module
from torchrl_drpo.data.words import WordIndex, Words, unique_words

#: NULs, long common beginnings, empty words, words around the sixteen bytes compared at once.
WORD = st.one_of(
    st.binary(max_size=20),
    st.text("a\0", max_size=18).map(str.encode),
    st.builds(lambda tail: b"https://example.com/" + tail, st.binary(max_size=3)),
)


@settings(deadline=None)
@given(words=st.lists(WORD, max_size=40), others=st.lists(WORD, max_size=10))
def test_words_do_as_python_does(words, others):
    column = Words.of(words)
    assert list(column) == words
    assert [words[i] for i in column.ascending()] == sorted(words)
    unique, place = unique_words(column)
    assert list(unique) == sorted(set(words))
    assert [unique[i] for i in place] == words
    index = WordIndex(unique)
    known = {word: number for number, word in enumerate(sorted(set(words)))}
    assert index.find(Words.of(others)).tolist() == [known.get(word, -1) for word in others]
    assert list(Words.joined([column, Words.of(others)])) == words + others
    rows = np.arange(min(len(words), len(others)))
    equal = column.equals(Words.of(others), rows, rows).tolist()
    assert equal == [a == b for a, b in zip(words, others, strict=False)]
    hashes = column.hashes()
    assert len(set(hashes.tolist())) == len(set(words))


def test_words_that_share_a_hash_stay_apart(monkeypatch):
    monkeypatch.setattr(Words, "hashes", lambda self: np.zeros(len(self), dtype=np.uint64))
    words = Words.of([b"a", b"b", b"c"])
    index = WordIndex(words)
    assert index.find(Words.of([b"c", b"x", b"a", b"b"])).tolist() == [2, -1, 0, 1]
    with pytest.raises(ValueError, match="'b' repeats"):
        WordIndex(Words.of([b"b", b"a", b"c", b"b"]))


def test_blocks_and_long_words_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    words = [rng.bytes(int(n)) for n in rng.integers(0, 60, 300)]
    words[7] = words[200] = b"L" * 500
    whole = Words.of(words)
    monkeypatch.setattr(module, "_BLOCK", 64)
    monkeypatch.setattr(module, "_LONG", 50)
    cut = Words.of(words)
    assert [words[i] for i in cut.ascending()] == sorted(words)
    assert list(cut.take(np.arange(299, -1, -1))) == words[::-1]
    assert cut.equals(whole, np.arange(300), np.arange(300)).all()
    assert WordIndex(unique_words(cut)[0]).find(cut).tolist() == unique_words(whole)[1].tolist()


def test_memory_does_not_follow_one_long_word():
    code = (
        "import resource, numpy as np\n"
        "from torchrl_drpo.data.words import Words, WordIndex, unique_words\n"
        "words = [b'%d' % k for k in range(200_000)]\n"
        "words[7] = b'L' * (20 << 20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "column = Words.of(words); unique, _ = unique_words(column)\n"
        "assert (WordIndex(unique).find(column) >= 0).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 700 << 10  # KiB; as wide as the longest it would be 4 TB
