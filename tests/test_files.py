"""Files that are written in one step, and what was changed since."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest

from torchrl_drpo.files import (
    check_seal,
    digest,
    fingerprint,
    read_json,
    read_sealed_json,
    replacing,
    seal,
    write_sealed_json,
    write_text,
)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for fault in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, fault, full)
            with pytest.raises(OSError, match="No space left"):
                write_text(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(path.parent) == ["file.txt"]
    with contextlib.suppress(KeyboardInterrupt), replacing(path) as file:
        file.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.txt"]


def test_sealed_json_is_what_was_written_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    data = {"numbers": [1, 2.5, -0.0], "deep": {10: "x", 9: None}, "pair": (1, 2)}
    write_sealed_json(path, data)
    plain = json.loads(json.dumps(data))
    assert read_sealed_json(path) == plain
    whole = path.read_bytes()
    for place in range(len(whole)):  # any byte at all
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        try:
            found = read_sealed_json(path)
        except ValueError:
            continue
        # The seal's own name was hit, and the data are as they were; or blanks between them.
        assert {name: found[name] for name in plain} == plain, place
    path.write_text(json.dumps(plain))
    assert read_sealed_json(path) == plain  # as older releases wrote it
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected an object, found list"):
        read_sealed_json(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff\xfe", b""])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json is (not JSON|nested too deeply)"):
        read_json(path)


def test_a_bom_is_no_part_of_the_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]


def test_seals_at_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for content in (b"", b"abc", os.urandom((1 << 20) + 5)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cut short"):
            check_seal(path)
        before = digest(path)
        seal(path)
        check_seal(path)
        assert path.read_bytes()[-64:].decode() == before
        for place in (0, len(content) // 2, len(content) + 1, -1):
            changed = bytearray(path.read_bytes())
            changed[place] ^= 4
            other = tmp_path / "changed"
            other.write_bytes(bytes(changed))
            with pytest.raises(ValueError, match=r"cut short|not what was written"):
                check_seal(other)


def test_fingerprints_are_of_the_data() -> None:
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
