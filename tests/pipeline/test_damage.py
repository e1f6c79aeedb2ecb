"""What was changed on disk is an error, or computed again: never another number without a word."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.kinds.test_embedding_faults import make_log, settings_for
from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.recommend import Recommendation, recommend
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread")

MUTATIONS = 120


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("damage")
    settings = settings_for(folder, make_log(), objectives=("uphill", "bc"))
    run_train(settings)
    return settings


def numbers(settings: TrainConfig) -> str:
    """All metrics of a command, to the last bit; NaN is NaN."""
    return repr(run_train(settings).runs)


def recommended(folder: Path) -> list[Recommendation] | None:
    try:
        return recommend(PolicyCheckpoint.load(folder), k=5)
    except ValueError:
        return None


def mutated(whole: bytes, rng: random.Random) -> bytes:
    changed = bytearray(whole)
    kind = rng.randrange(4)
    place = rng.randrange(len(changed))
    if kind == 0:
        changed[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del changed[place:]
    elif kind == 2:
        changed[place : place + 8] = bytes(rng.randrange(256) for _ in range(8))
    else:
        changed[place:place] = b"0"
    return bytes(changed)


def damages(folder: Path, seed: int, count: int) -> Iterator[Path]:
    """One file of the folder changed at a time, then put right again."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(count):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, rng))
        try:
            yield path
        finally:
            path.write_bytes(whole)


def test_a_changed_checkpoint_is_an_error_or_the_same_policy(finished: TrainConfig) -> None:
    folder = finished.output / "uphill"
    good, refused = recommended(folder), 0
    for path in damages(folder, seed=0, count=MUTATIONS):
        found = recommended(folder)
        refused += found is None
        assert found in (None, good), path
    assert refused > MUTATIONS // 3  # the index, which nothing here reads, is a part of the folder


def test_a_changed_run_or_reward_model_is_computed_again(finished: TrainConfig) -> None:
    good = numbers(finished)
    for part in ("runs", "reward-embedding"):
        for path in damages(finished.output / part, seed=1, count=12):
            assert numbers(finished) == good, path


def test_a_changed_training_state_is_an_error(tmp_path: Path) -> None:
    from tests.pipeline.test_trainer import make_trainer

    path = tmp_path / "x.state"
    make_trainer(path, steps=20).run()
    rng, whole = random.Random(2), path.read_bytes()
    for _ in range(60):
        path.write_bytes(mutated(whole, rng))
        with pytest.raises(ValueError, match=r"x\.state is not a readable training checkpoint"):
            make_trainer(path, steps=40)
    path.write_bytes(whole)
    make_trainer(path, steps=40).run()


def test_a_damaged_policy_is_one_line(finished: TrainConfig, capsys, monkeypatch) -> None:
    monkeypatch.delenv("DRPO_TRACEBACK", raising=False)
    for _ in damages(finished.output / "bc", seed=3, count=25):
        code = cli.main(["recommend", "--checkpoint", str(finished.output / "bc")])
        said = capsys.readouterr()
        assert code in (0, 2)
        assert code == 0 or (said.err.startswith("drpo: ") and said.err.count("\n") == 1)
        assert "a fault of drpo" not in said.err


def test_a_full_disk_leaves_what_was_there_and_the_run_goes_on(
    tmp_path: Path, finished: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a write fails: the state, the policy, the run, the reward model, the table."""
    real, left = os.replace, [0]

    def sometimes(*names: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*names)  # type: ignore[arg-type]

    settings, fails = replace(finished, output=tmp_path / "run"), 0
    for number in range(1, 60, 4):
        left[0] = number
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", sometimes)
            try:
                run_train(settings)
            except OSError:
                fails += 1
            else:
                break
    assert fails > 3
    assert numbers(settings) == numbers(finished)
    assert not list(settings.output.rglob("*.tmp"))


def files_below(folder: Path) -> set[str]:
    """What lies there now; a folder that another process removes meanwhile is passed over."""
    return {os.path.join(at, name) for at, _, names in os.walk(folder) for name in names}


def test_kill_9_at_any_time_ends_as_if_it_had_not_been(
    tmp_path: Path, finished: TrainConfig
) -> None:
    settings = replace(finished, output=tmp_path / "run", steps=400)
    whole = numbers(replace(settings, output=tmp_path / "whole"))
    command = [
        *(sys.executable, "-m", "torchrl_drpo.cli", "train", "--logs", settings.logs),
        *("--schema", str(settings.schema), "--output", str(settings.output)),
        *("--policy", "embedding", "--objectives", *settings.objectives),
        *("--steps", "400", "--batch-size", str(settings.batch_size)),
        *("--learning-rate", str(settings.learning_rate), "--history", str(settings.history)),
        *("--test-days", str(settings.test_days), "--ks", *map(str, settings.ks)),
        *("--dim", str(settings.model.dim), "--hidden", *map(str, settings.model.hidden)),
        *("--landmarks", str(settings.kinds.embedding.landmarks)),
    ]
    rng, killed = random.Random(4), 0
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        wanted = files_below(settings.output)
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if (
                files_below(settings.output) - wanted and rng.random() < 0.3
            ):  # something new was written just now
                process.send_signal(signal.SIGKILL)
                killed += 1
                break
            time.sleep(0.02)
        _, said = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, said.decode()
            break
    assert killed
    assert numbers(settings) == whole
