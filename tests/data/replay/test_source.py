"""`BufferSource`: TorchRL's trainers on a log, and runs that resume as if nothing had happened."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.checkpoint import Checkpoint
from torchrl.data import (
    LazyTensorStorage,
    OfflineToOnlineReplayBuffer,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.modules import ValueOperator
from torchrl.objectives import IQLLoss, SoftUpdate
from torchrl.record.loggers import CSVLogger
from torchrl.trainers import LogScalar, Trainer
from torchrl.trainers.algorithms import IQLTrainer
from torchrl.trainers.trainers import DefaultOptimizationStepper

from torchrl_drpo import BehaviorCloningLoss, DRPOLoss, QuantileSampler, RecReplayBuffer
from torchrl_drpo import make_gaussian_actor as gaussian_actor
from torchrl_drpo.data import BufferSource
from torchrl_drpo.rewards import AnnotatedBuffer

ROWS, BATCH = 37, 8


def rows(n: int = ROWS, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    transitions = {
        "observation": draw(n, 3),
        "action": draw(n, 2),
        "next": {
            "observation": draw(n, 3),
            "reward": draw(n, 1),
            "done": torch.ones(n, 1, dtype=torch.bool),
            "terminated": torch.ones(n, 1, dtype=torch.bool),
        },
    }
    return TensorDict(transitions, [n])


def plain(sampler=None, generator=True, size=BATCH, **options) -> TensorDictReplayBuffer:
    generator = torch.Generator().manual_seed(5) if generator else None
    made = TensorDictReplayBuffer(
        storage=LazyTensorStorage(ROWS), sampler=sampler, batch_size=size, generator=generator,
        **options,
    )  # fmt: skip
    made.extend(rows())
    return made


def log(**options) -> RecReplayBuffer:
    generator = torch.Generator().manual_seed(5)
    return RecReplayBuffer.from_tensordict(rows(), batch_size=BATCH, generator=generator, **options)


BUFFERS = {
    "log": log,
    "log, best tenth": lambda: log(sampler=QuantileSampler(kappa=0.3)),
    "random": plain,
    "without replacement": lambda: plain(SamplerWithoutReplacement(drop_last=True)),
    "torch's own generator": lambda: plain(generator=False),
    "annotated": lambda: AnnotatedBuffer(plain(), TensorDict({"fold": torch.arange(ROWS)}, [ROWS])),
}


class Dropping(nn.Module):
    """An actor's network whose forward draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, observation):
        return self.layers(observation), torch.full((2,), 0.5)


def dropping_actor():
    from torchrl.modules import IndependentNormal, ProbabilisticActor

    net = TensorDictModule(Dropping(), in_keys=["observation"], out_keys=["loc", "scale"])
    return ProbabilisticActor(net, in_keys=["loc", "scale"], distribution_class=IndependentNormal)


def make_trainer(buffer, steps: int, actor=None, **options) -> Trainer:
    torch.manual_seed(3)
    loss = DRPOLoss(dropping_actor() if actor is None else actor)
    options.setdefault("checkpoint", Checkpoint())
    options.setdefault("optimization_stepper", DefaultOptimizationStepper())
    return Trainer(
        collector=BufferSource(buffer), total_frames=steps * BATCH, frame_skip=1,
        optim_steps_per_batch=1, loss_module=loss, progress_bar=False,
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.01), **options,
    )  # fmt: skip


@pytest.mark.parametrize("kind", BUFFERS)
def test_a_trainer_that_is_saved_and_loaded_goes_on_bit_for_bit(kind: str, tmp_path: Path):
    whole = make_trainer(BUFFERS[kind](), 9)
    whole.train()
    first = make_trainer(BUFFERS[kind](), 5, save_trainer_file=tmp_path / "state")
    first.train()
    second = make_trainer(BUFFERS[kind](), 9).load_from_file(tmp_path / "state")
    assert second.collected_frames == 5 * BATCH
    torch.manual_seed(99)  # another process has another one
    second.load_from_file(tmp_path / "state")
    second.train()
    assert second.collected_frames == whole.collected_frames == 9 * BATCH
    assert second.collector.drawn == 9
    for (name, expected), found in zip(
        whole.loss_module.state_dict().items(),
        second.loss_module.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(expected, found), name
    states = [trainer.collector.state_dict() for trainer in (whole, second)]
    assert torch.equal(*(state["torch_rng"] for state in states))


def test_the_draws_of_a_resumed_run_are_others_than_those_of_a_new_one():
    source = BufferSource(log())
    batches = [batch["action"] for batch, _ in zip(source, range(3), strict=False)]
    fresh = next(iter(BufferSource(log())))["action"]
    assert torch.equal(fresh, batches[0])
    resumed = BufferSource(log())
    resumed.load_state_dict(source.state_dict())
    assert not torch.equal(next(iter(resumed))["action"], batches[0])


def test_passes_are_finite_where_asked_for_and_a_broken_one_is_gone_on_with():
    source = BufferSource(plain(SamplerWithoutReplacement(drop_last=True), size=12), batches=3)
    (first, second, third) = (batch["index"] for batch in source)
    assert len(set(torch.cat([first, second, third]).tolist())) == 36  # one pass over 37 rows
    assert [batch.numel() for batch in source] == [12] * 3
    for batch in source:
        assert batch.numel() == 12
        break
    assert len(list(source)) == 2
    assert len(list(source)) == len(source) == 3
    with pytest.raises(TypeError, match="an endless source has no length"):
        len(BufferSource(plain()))


# TorchRL's stepper gives loggers the loss with its gradient.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_frames_are_rows_and_hooks_and_loggers_see_them(tmp_path: Path):
    logger = CSVLogger("run", log_dir=str(tmp_path))
    seen = []
    trainer = make_trainer(log(), 4, logger=logger, log_interval=0)
    LogScalar(("next", "reward"), "reward").register(trainer)
    trainer.register_op("pre_optim_steps", lambda: seen.append(trainer.collected_frames))
    trainer.train()
    assert seen == [BATCH * (step + 1) for step in range(4)]
    written = (tmp_path / "run" / "scalars" / "reward.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in written] == seen
    drawn = [
        batch["next", "reward"].mean().item()
        for batch, _ in zip(BufferSource(log()), seen, strict=False)
    ]
    assert [float(line.split(",")[1]) for line in written] == pytest.approx(drawn)


def test_a_trainers_seed_decides_the_batches():
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        trainer = make_trainer(log(), 2, gaussian_actor(3, 2), seed=seed)
        trainer.train()
        runs.append(next(trainer.loss_module.parameters()).detach().clone())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.filterwarnings("ignore:IQLTrainer is an experimental:UserWarning")
@pytest.mark.filterwarnings("ignore:The 'optimizer' hook stage:FutureWarning")
def test_torchrls_own_offline_trainer_takes_it():
    actor = gaussian_actor(3, 2)
    value = ValueOperator(nn.Linear(3, 1), in_keys=["observation"])
    quality = ValueOperator(Joined(), in_keys=["observation", "action"])
    loss = IQLLoss(actor, quality, value_network=value)
    before = {name: p.detach().clone() for name, p in actor.named_parameters()}
    trainer = IQLTrainer(
        collector=BufferSource(log()), total_frames=3 * BATCH, frame_skip=1,
        optim_steps_per_batch=1, loss_module=loss, target_net_updater=SoftUpdate(loss, eps=0.9),
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.01), progress_bar=False,
        log_actions=False, log_rewards=False,
    )  # fmt: skip
    trainer.train()
    assert trainer.collected_frames == 3 * BATCH
    assert any(not torch.equal(p, before[name]) for name, p in actor.named_parameters())


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, observation, action):
        return self.layer(torch.cat([observation, action], -1))


def test_batches_go_where_they_are_asked_to():
    assert next(iter(BufferSource(plain(), device="meta")))["action"].device.type == "meta"
    assert next(iter(BufferSource(plain())))["action"].device.type == "cpu"


def test_another_log_and_another_batch_size_are_refused():
    state = BufferSource(log()).state_dict()
    with pytest.raises(ValueError, match="saved with batch_size 8, this source has 4"):
        BufferSource(log(), 4).load_state_dict(state)
    other = RecReplayBuffer.from_tensordict(
        rows(seed=1), batch_size=BATCH, generator=torch.Generator()
    )
    with pytest.raises(ValueError, match=r"saved with log 'data-.*resume with what the run began"):
        BufferSource(other).load_state_dict(state)
    state = BufferSource(plain()).state_dict()
    with pytest.raises(ValueError, match="saved with own generator True, this source has False"):
        BufferSource(plain(generator=False)).load_state_dict(state)


def test_batches_drawn_ahead_are_warned_of():
    source = BufferSource(plain(prefetch=2))
    next(iter(source))
    with pytest.warns(UserWarning, match="draws batches ahead"):
        source.state_dict()


def test_what_cannot_be_drawn_from_is_refused():
    empty = TensorDictReplayBuffer(storage=LazyTensorStorage(3), batch_size=2)
    with pytest.raises(ValueError, match="the replay buffer is empty"):
        BufferSource(empty)
    sizeless = TensorDictReplayBuffer(storage=LazyTensorStorage(ROWS))
    sizeless.extend(rows())
    with pytest.raises(ValueError, match="neither the buffer nor batch_size"):
        BufferSource(sizeless)
    for name in ("batch_size", "batches"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            BufferSource(plain(), **{name: 0})
    with pytest.raises(TypeError, match="a sampler, got list"):
        BufferSource([rows()])
    mixed = OfflineToOnlineReplayBuffer(log(), online_capacity=10, batch_size=BATCH)
    with pytest.raises(TypeError, match="give its offline_buffer"):
        BufferSource(mixed)
    assert next(iter(BufferSource(mixed.offline_buffer))).shape == (BATCH,)


def test_a_loss_falls_on_what_is_learned_from():
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(256, 3, generator=generator)
    learned = TensorDict({"observation": state, "action": state[:, :2]}, [256])
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(256), batch_size=64, generator=generator
    )
    buffer.extend(learned)
    torch.manual_seed(0)
    actor = gaussian_actor(3, 2)
    loss = BehaviorCloningLoss(actor)
    trainer = Trainer(
        collector=BufferSource(buffer), total_frames=64 * 150, frame_skip=1,
        optim_steps_per_batch=1, loss_module=loss, progress_bar=False,
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.01),
        optimization_stepper=DefaultOptimizationStepper(),
    )  # fmt: skip
    before = actor.get_dist(learned).mode.sub(learned["action"]).square().mean()
    trainer.train()
    after = actor.get_dist(learned).mode.sub(learned["action"]).square().mean()
    assert math.isfinite(after)
    assert after < 0.05 * before
