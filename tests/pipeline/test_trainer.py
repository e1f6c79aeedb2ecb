"""The training loop: it learns, it resumes exactly, and it refuses what it cannot continue."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.record.loggers.utils import get_logger

from torchrl_drpo import BehaviorCloningLoss, DRPOLoss, make_gaussian_actor
from torchrl_drpo.files import seal
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.rewards import AnnotatedBuffer


def make_buffer(seed=0, sampler=None):
    rows = torch.Generator().manual_seed(7)
    state = torch.randn(256, 3, generator=rows)
    action = state @ torch.randn(3, 2, generator=rows)
    reward = torch.rand(256, 1, generator=rows)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(256),
        sampler=sampler,
        generator=torch.Generator().manual_seed(seed),
    )
    buffer.extend(
        TensorDict(
            {"observation": state, "action": action, "next": {"reward": reward}}, batch_size=[256]
        )
    )
    return buffer


def make_trainer(path=None, steps=60, sampler=None, **kwargs):
    torch.manual_seed(3)
    loss = DRPOLoss(make_gaussian_actor(state_dim=3, action_dim=2, hidden=(16,)))
    config = TrainerConfig(
        steps=steps, batch_size=32, learning_rate=1e-2, log_every=10, checkpoint_every=20
    )
    return OfflineTrainer(loss, make_buffer(sampler=sampler), config, checkpoint=path, **kwargs)


def test_it_learns_a_linear_policy():
    torch.manual_seed(0)
    actor = make_gaussian_actor(state_dim=3, action_dim=2, hidden=())
    config = TrainerConfig(steps=800, batch_size=64, learning_rate=2e-2)
    OfflineTrainer(BehaviorCloningLoss(actor), make_buffer(), config).run()
    rows = make_buffer().sample(200)
    # A linear mean can fit these actions exactly: the residual must be a small part of the spread.
    residual = (actor.get_dist(rows).mean - rows["action"]).square().mean()
    assert residual < 1e-2 * rows["action"].square().mean()


def test_the_rate_warms_up_decays_and_goes_on_after_a_kill(tmp_path):
    torch.manual_seed(3)
    schedule = {"steps": 30, "batch_size": 8, "learning_rate": 0.1, "warm_up": 5, "decay": "cosine"}
    schedule |= {"weight_decay": 0.1, "max_grad_norm": 1.0, "checkpoint_every": 10}

    def new(path, rates):
        torch.manual_seed(3)
        loss = BehaviorCloningLoss(make_gaussian_actor(state_dim=3, action_dim=2, hidden=(4,)))
        trainer = OfflineTrainer(loss, make_buffer(), TrainerConfig(**schedule), checkpoint=path)
        read = lambda step, *_: rates.append(trainer.optimizer.param_groups[0]["lr"])  # noqa: E731
        trainer.after_step = [read]
        return trainer

    rates, again = [], []
    whole = new(None, rates)
    whole.run()
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    wanted = [0.05 * (1 + math.cos(math.pi * k / 25)) for k in range(26)]
    assert rates[4:] == pytest.approx(wanted, abs=1e-6)
    first = new(tmp_path / "state", again)

    def kill(step, *_):
        if step == 23:
            raise KeyboardInterrupt

    first.after_step.append(kill)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    rest = []
    resumed = new(tmp_path / "state", rest)
    resumed.run()
    assert rest == rates[20:]
    for name, value in whole.loss_module.state_dict().items():
        assert torch.equal(value, resumed.loss_module.state_dict()[name]), name
    schedule["steps"] = 40  # every rate would have been another one
    with pytest.raises(ValueError, match="steps"):
        new(tmp_path / "state", [])


@pytest.mark.parametrize(
    "numbers",
    [{"weight_decay": -1.0}, {"max_grad_norm": 0.0}, {"warm_up": -1}, {"learning_rate": 0.0}],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match=next(iter(numbers))):
        TrainerConfig(**numbers)


@pytest.mark.parametrize("sampler", [None, SamplerWithoutReplacement])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, sampler):
    def new(path, **kwargs):
        return make_trainer(path, sampler=None if sampler is None else sampler(), **kwargs)

    whole = new(None)
    history = whole.run()

    class KilledError(Exception):
        pass

    def kill(step, batch, out):
        if step == 47:  # seven steps after the last checkpoint
            raise KilledError

    with pytest.raises(KilledError):
        new(tmp_path / "state.pt", after_step=[kill]).run()
    torch.manual_seed(12345)  # another process would stand elsewhere
    resumed = new(tmp_path / "state.pt")
    assert resumed.step == 40
    assert resumed.run() == history
    for name, value in whole.loss_module.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed.loss_module.state_dict()[name]), name


def test_a_buffer_that_draws_ahead_is_not_trained_with_a_checkpoint(tmp_path):
    """What it has drawn is lost with a kill, and the batches after it were others."""
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(4), batch_size=2, prefetch=2, generator=torch.Generator()
    )
    buffer.extend(TensorDict({"observation": torch.ones(4, 3), "action": torch.ones(4, 2)}, [4]))
    loss = BehaviorCloningLoss(make_gaussian_actor(state_dim=3, action_dim=2))
    config = TrainerConfig(steps=2, batch_size=2)
    for each in (buffer, AnnotatedBuffer(buffer, TensorDict({"note": torch.ones(4)}, [4]))):
        with pytest.raises(ValueError, match=r"draws batches ahead \(prefetch\)"):
            OfflineTrainer(loss, each, config, checkpoint=tmp_path / "state")
    OfflineTrainer(loss, buffer, config).run()


def test_loggers_and_progress_are_told(tmp_path):
    lines = []
    loggers = [get_logger(kind, str(tmp_path), f"{kind}_run") for kind in ("csv", "tensorboard")]
    trainer = make_trainer(
        steps=25,
        loggers=loggers,
        progress=lambda step, values: lines.append((step, values["kappa"])),
        evaluate=lambda step: {"steps_seen": float(step)},
    )
    history = trainer.run()
    assert [step for step, _ in lines] == [10, 20, 25]
    assert history.evaluation == {"steps_seen": [(25, 25.0)]}
    written = list(tmp_path.rglob("kappa.csv"))
    assert len(written) == 1
    assert [int(row.split(",")[0]) for row in written[0].read_text().split()] == [10, 20, 25]
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_evaluation_sees_the_module_in_eval_mode_without_gradients():
    seen = []
    trainer = make_trainer(steps=1)
    trainer.evaluate = lambda step: (
        seen.append((trainer.loss_module.training, torch.is_grad_enabled())) or {"x": 1.0}
    )
    trainer.run()
    assert seen == [(False, False)]
    assert trainer.loss_module.training


def test_a_damaged_checkpoint_is_named_and_kept(tmp_path):
    path = tmp_path / "state.pt"
    make_trainer(path, steps=20).run()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"state\.pt is not a readable training checkpoint"):
        make_trainer(path)
    assert path.read_bytes() == whole[: len(whole) // 2]


def save_sealed(state, path):
    torch.save(state, path)
    seal(path)


def test_a_checkpoint_of_another_version_or_run_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    make_trainer(path, steps=20).run()
    state = torch.load(path, weights_only=True)
    save_sealed({**state, "version": 0}, path)
    with pytest.raises(ValueError, match="version 0, this release reads version 1"):
        make_trainer(path)
    save_sealed({**state, "config": {**state["config"], "learning_rate": 1.0}}, path)
    with pytest.raises(ValueError, match=r"learning_rate=1\.0, this run has 0\.01"):
        make_trainer(path)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    trainer = make_trainer(path, steps=20)
    trainer.run()
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        trainer.save(path)
    assert path.read_bytes() == before


def test_unusable_parts_are_named():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4), batch_size=2)
    loss = BehaviorCloningLoss(make_gaussian_actor(state_dim=3, action_dim=2))
    with pytest.raises(ValueError, match="no generator of its own"):
        OfflineTrainer(loss, buffer, TrainerConfig()).state_dict()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        TrainerConfig(steps=0)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        TrainerConfig(learning_rate=0.0)
    for parameter in loss.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        OfflineTrainer(loss, buffer, TrainerConfig())
