"""Digests that tell files apart, bytes written in one step, and what a full disk is called."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from torchrl_drpo import files


def test_bytes_are_written_in_one_step(tmp_path):
    files.write_bytes(tmp_path / "new" / "x", b"\0\xff")
    assert (tmp_path / "new" / "x").read_bytes() == b"\0\xff"
    assert os.listdir(tmp_path / "new") == ["x"]


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_digests_are_of_the_content(tmp_path, size):
    content = bytearray(os.urandom(size))
    path = tmp_path / "x"
    path.write_bytes(content)
    whole, sampled = files.digest(path), files.sampled_digest(path)
    assert whole == hashlib.sha256(content).hexdigest()
    small = size <= 1 << 20
    assert (sampled == whole) == small
    # cut, lengthened, another first or last byte: both digests are others
    changes = [content[:-1], content + b"\0"] if size else [b"\0"]
    for place in (0, -1) if size else ():
        changed = bytearray(content)
        changed[place] ^= 1
        changes.append(changed)
    for change in changes:
        path.write_bytes(change)
        assert files.digest(path) != whole
        assert files.sampled_digest(path) != sampled
    if size > 200_000:  # one byte in between
        content[100_000] ^= 1
        path.write_bytes(content)
        assert files.digest(path) != whole
        assert (files.sampled_digest(path) != sampled) == small


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_was_done(number):
    told = pytest.raises(OSError, match=r"the disk is full while writing x; free some .*: try")
    with told as caught, files.telling_full_disk("writing x", "try"):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number


def test_other_errors_pass_unchanged():
    with pytest.raises(PermissionError, match=r"^denied$"), files.telling_full_disk("x"):
        raise PermissionError("denied")
