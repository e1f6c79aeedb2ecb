"""`DRPOTrainer`: the run that `OfflineTrainer` makes, in TorchRL's loop, and on to online."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensordict import NonTensorData, TensorDict, load_memmap
from torchrl.checkpoint import CheckpointError
from torchrl.data import LazyTensorStorage, OfflineToOnlineReplayBuffer, TensorDictReplayBuffer
from torchrl.record.loggers import CSVLogger

from torchrl_drpo import (
    BehaviorCloningLoss,
    DRPOLoss,
    RecReplayBuffer,
    RecSimEnv,
    make_gaussian_actor,
)
from torchrl_drpo.envs import RecSimSetting
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.drpo_trainer import DRPOTrainer
from torchrl_drpo.pipeline.trainer import OfflineTrainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.collectors import Collector

SMALL = replace(RecSimSetting(), num_items=300, action_dim=16)
CONFIG = TrainerConfig(
    steps=20, batch_size=8, learning_rate=0.01, log_every=5, evaluate_every=7, checkpoint_every=10,
    max_grad_norm=1.0, warm_up=4, decay="cosine",
)  # fmt: skip
ROWS = RecSimEnv(SMALL).simulate_log(60, "extreme", seed=1, propensity=False)


def log() -> RecReplayBuffer:
    rows = ROWS.select("observation", "action", "next")
    return RecReplayBuffer.from_tensordict(
        rows, generator=torch.Generator().manual_seed(0), sample_index=False
    )


def make_loss() -> DRPOLoss:
    torch.manual_seed(0)
    return DRPOLoss(make_gaussian_actor(10, 16, hidden=(8,)))


def parameters(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.loss_module.parameters()])


def test_it_makes_the_run_that_the_offline_trainer_makes(tmp_path: Path):
    evaluate = lambda step: {"kappa": step / 7}  # noqa: E731
    ours = OfflineTrainer(make_loss(), log(), CONFIG, evaluate=evaluate)
    history = ours.run()
    logger = CSVLogger("run", log_dir=str(tmp_path))
    theirs = DRPOTrainer(make_loss(), log(), CONFIG, evaluate=evaluate, logger=logger)
    theirs.train()
    assert torch.equal(parameters(ours), parameters(theirs))
    assert theirs.evaluations == history.evaluation
    assert (theirs.step, theirs.collected_frames) == (20, 160)
    for name in ("loss_actor", "kappa", "kept_fraction"):
        lines = (tmp_path / "run" / "scalars" / f"{name}.csv").read_text().split()
        found = [(int(line.split(",")[0]) // 8, float(line.split(",")[1])) for line in lines]
        assert found == history.training[name]
    assert (tmp_path / "run" / "scalars" / "evaluation" / "kappa.csv").read_text().count("\n") == 3


def test_a_run_resumes_bit_for_bit_and_one_that_is_over_stays_as_it_is(tmp_path: Path):
    config = replace(CONFIG, decay="constant")
    evaluate = lambda step: {"x": float(step)}  # noqa: E731
    whole = DRPOTrainer(make_loss(), log(), config, evaluate=evaluate)
    whole.train()
    for steps in (9, 20, 20):
        resumed = DRPOTrainer(
            make_loss(), log(), replace(config, steps=steps), evaluate=evaluate,
            checkpoint=tmp_path / "state",
        )  # fmt: skip
        torch.manual_seed(77)  # of another process
        resumed.train()
        assert resumed.step == steps
    assert torch.equal(parameters(whole), parameters(resumed))
    steps = [step for step, _ in resumed.evaluations["x"]]
    assert steps == [7, 9, 14, 20]
    with pytest.raises(
        CheckpointError, match=r"written with learning_rate=0\.01, this run has 0\.5"
    ):
        DRPOTrainer(
            make_loss(), log(), replace(config, learning_rate=0.5), checkpoint=tmp_path / "state"
        )


def test_an_actor_gets_a_drpo_loss_and_ones_own_optimizer_keeps_its_rate():
    trainer = DRPOTrainer(make_gaussian_actor(10, 16), log(), CONFIG)
    assert isinstance(trainer.loss_module, DRPOLoss)
    loss = BehaviorCloningLoss(make_gaussian_actor(10, 16))
    mine = torch.optim.SGD(loss.parameters(), lr=0.125)
    trainer = DRPOTrainer(loss, log(), CONFIG, optimizer=mine)
    trainer.train()
    assert trainer.optimizer is mine
    assert mine.param_groups[0]["lr"] == 0.125


def test_two_trainers_side_by_side_log_what_is_theirs(tmp_path: Path):
    # TorchRL keeps when a value was last logged on the class.
    loggers = [CSVLogger(name, log_dir=str(tmp_path)) for name in ("one", "two")]
    trainers = [DRPOTrainer(make_loss(), log(), CONFIG, logger=each) for each in loggers]
    for trainer in trainers:
        trainer.train()
        assert max(map(len, trainer._log_dict.values())) == 1  # nor does it keep every value
    texts = [(tmp_path / n / "scalars" / "kappa.csv").read_text() for n in ("one", "two")]
    assert texts[0] == texts[1]
    assert texts[0].count("\n") == 4


def served(actor) -> Collector:
    with warnings.catch_warnings():  # TorchRL's own, whenever a collector is made
        warnings.simplefilter("ignore", DeprecationWarning)
        env = RecSimEnv(SMALL, user_seed=3, batch_size=[10])
        return Collector(
            env, actor, frames_per_batch=20, total_frames=-1, auto_register_policy_transforms=False
        )


def online(loss: DRPOLoss, **options):
    mixed = OfflineToOnlineReplayBuffer(log(), online_capacity=1_000, offline_fraction=0.5)
    # The policy that serves has weights of its own, as in another process.
    actor = make_gaussian_actor(10, 16, hidden=(8,))
    trainer = DRPOTrainer(
        loss, mixed, CONFIG, collector=served(actor), optim_steps_per_batch=4, **options
    )
    return trainer, mixed, actor


class Planted:
    """What says, unpickled, that it was."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self):
        return Path.touch, (self.told,)


def test_a_checkpoint_into_which_code_was_put_is_refused(tmp_path: Path):
    """tensordict unpickles a file that a state's own meta.json names."""
    folder, told = tmp_path / "run", tmp_path / "told"
    DRPOTrainer(make_loss(), log(), CONFIG, checkpoint=folder).train()
    state = next(folder.glob("components/*-loss_module/state"))
    meta = json.loads((state / "meta.json").read_text())
    (state / "meta.json").write_text(json.dumps(meta | {"more": {"type": "NonTensorData"}}))
    TensorDict({"more": NonTensorData("x")}, []).memmap(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain" / "more", state / "more")
    (state / "more" / "other.pickle").write_bytes(pickle.dumps({"data": Planted(told)}))
    longer = replace(CONFIG, decay="constant")
    with pytest.raises(
        ValueError, match=r"other\.pickle is no part of a checkpoint of DRPOTrainer"
    ):
        DRPOTrainer(make_loss(), log(), longer, checkpoint=folder)
    assert not told.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_memmap(state)  # or else this test looks for nothing
    assert told.exists()


def test_a_collectors_rows_are_learned_from_and_it_acts_by_the_new_weights():
    loss, seen = make_loss(), []
    trainer, mixed, actor = online(loss, evaluate=lambda step: {"x": float(step)})
    trainer.register_op("process_optim_batch", lambda batch: seen.append(batch.shape[0]) or batch)
    trainer.train()
    assert trainer.step == 20
    assert trainer.collected_frames == len(mixed.online_buffer) == 100
    assert seen == [8] * 20
    assert set(mixed.sample(8).keys(True, True)) == set(log().sample(8).keys(True, True))
    state = torch.randn(5, 10)
    rows = TensorDict({"observation": state}, [5])
    assert torch.equal(actor(rows.clone())["loc"], loss.actor_network(rows.clone())["loc"])
    assert [step for step, _ in trainer.evaluations["x"]] == [8, 16, 20]


def test_the_share_of_logged_rows_anneals_and_what_was_served_is_saved(tmp_path: Path):
    trainer, mixed, _ = online(make_loss(), anneal_steps=10, checkpoint=tmp_path / "state")
    trainer.train()
    assert mixed.offline_fraction == 0
    again, resumed, _ = online(make_loss(), anneal_steps=10, checkpoint=tmp_path / "state")
    assert len(resumed.online_buffer) == 100
    assert resumed.offline_fraction == 0
    assert torch.equal(parameters(trainer), parameters(again))


def test_what_does_not_fit_is_refused():
    actor = make_gaussian_actor(10, 16)
    mixed = OfflineToOnlineReplayBuffer(log(), online_capacity=10)
    with pytest.raises(TypeError, match="got OfflineToOnlineReplayBuffer and collector=NoneType"):
        DRPOTrainer(actor, mixed)
    with pytest.raises(TypeError, match="got RecReplayBuffer and collector=Collector"):
        DRPOTrainer(actor, log(), collector=served(actor))
    with pytest.raises(ValueError, match="optim_steps_per_batch is 1 offline"):
        DRPOTrainer(actor, log(), optim_steps_per_batch=2)
    numbered = RecReplayBuffer.from_tensordict(ROWS.select("observation", "action", "next"))
    mixed = OfflineToOnlineReplayBuffer(numbered, online_capacity=10)
    with pytest.raises(ValueError, match=r"rows of the log hold 'index', .* sample_index=False"):
        DRPOTrainer(actor, mixed, CONFIG, collector=served(actor)).train()
    windows = TensorDictReplayBuffer(storage=LazyTensorStorage(6))
    windows.extend(ROWS[:24].select("observation", "action", "next").reshape(6, 4))
    with pytest.raises(ValueError, match=r"is \(8, 4\), 32 rows where batch_size is 8"):
        DRPOTrainer(actor, windows, CONFIG).train()


def test_it_learns_what_the_closed_form_says():
    # One-step BC of a Gaussian with a free mean: the mean of the actions of each state.
    state = torch.eye(2).repeat(50, 1)
    action = state @ torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    rows = TensorDict(
        {"observation": state, "action": action, "next": {"reward": torch.ones(100, 1)}}, [100]
    )
    buffer = RecReplayBuffer.from_tensordict(rows, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    actor = make_gaussian_actor(2, 2, hidden=(16,))
    config = TrainerConfig(steps=300, batch_size=32, learning_rate=0.02)
    DRPOTrainer(BehaviorCloningLoss(actor), buffer, config).train()
    error = (actor.get_dist(rows).mode - action).abs().max().item()
    assert math.isfinite(error)
    assert error < 0.1
