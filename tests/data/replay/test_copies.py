"""Parts and copies of a buffer: over the same files, with options of their own or of the whole."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torchrl.data import (
    RandomSampler,
    SamplerWithoutReplacement,
    SliceSampler,
    SliceSamplerWithoutReplacement,
)
from torchrl.envs import Compose, RewardScaling

from torchrl_drpo.data import (
    LogSchema,
    QuantileSampler,
    RecReplayBuffer,
    TrajectorySampler,
    WindowUnit,
)

SCHEMA = LogSchema(user="user", item="item", time="time", quality="play", session_gap=86_400.0)
SAMPLERS = {
    "random": RandomSampler,
    "without replacement": SamplerWithoutReplacement,
    "slices": lambda: SliceSampler(num_slices=4, traj_key="trajectory_id", strict_length=False),
    "slices without": lambda: SliceSamplerWithoutReplacement(
        num_slices=4, traj_key="trajectory_id", strict_length=False
    ),
    "quantile": lambda: QuantileSampler(kappa=0.3),
    "quantile without": lambda: QuantileSampler(kappa=0.3, without_replacement=True),
    "trajectories": TrajectorySampler,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(frame, **options) -> RecReplayBuffer:
    given = {"test_days": 3, "history": 2, "batch_size": 8, "generator": generator(), **options}
    return RecReplayBuffer.from_pandas(frame, SCHEMA, **given)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_part_draws_as_if_it_had_been_given_the_options_itself(frame, name):
    whole = make(frame, sampler=SAMPLERS[name]())
    whole.sample()  # what the sampler learns of the whole is not true of a part
    torch.manual_seed(1)
    train = whole.split("train", generator=generator())
    other = make(frame, generator=None, sampler=RandomSampler())
    torch.manual_seed(2)
    expected = other.split("train", sampler=SAMPLERS[name](), generator=generator())
    for _ in range(3):
        assert (train.sample() == expected.sample()).all()
        assert int(train.sample()["index"].max()) < len(train)
        expected.sample()
    assert type(train.sampler) is type(whole.sampler)
    assert train.sampler is not whole.sampler


@pytest.mark.parametrize("name", ["random", "quantile", "trajectories"])
def test_one_seed_decides_what_a_part_draws(frame, name):
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        train = make(frame, sampler=SAMPLERS[name]()).split("train")
        draws.append([train.sample()["index"].tolist() for _ in range(3)])
    assert draws[0] == draws[1]


def test_a_part_keeps_what_the_whole_was_given_or_set_to(frame):
    scaling = RewardScaling(0.0, 2.0, in_keys=[("next", "reward")])
    whole = make(
        frame, sample_unit=WindowUnit(3), transform=scaling, prefetch=2, next_observation=True,
        sample_index=False, priority_key="p",
    )  # fmt: skip
    train = whole.split("train")
    sample = train.sample()
    assert sample.batch_size == (8, 3)
    assert "index" not in sample
    assert sample["next", "observation", "history"].shape == (8, 3, 2)
    plain = make(frame).split("train")
    torch.testing.assert_close(train[:]["next", "reward"], 2 * plain[:]["next", "reward"])
    assert (train._prefetch_cap, train.priority_key) == (2, "p")
    whole.set_sampler(QuantileSampler(kappa=0.5))
    whole.append_transform(RewardScaling(0.0, 5.0, in_keys=[("next", "reward")]))
    later = whole.split("train")
    assert later.sampler.kappa == 0.5
    torch.testing.assert_close(later[:]["next", "reward"], 10 * plain[:]["next", "reward"])
    assert len(train._transform) == 1


def test_what_is_given_anew_prevails(frame):
    whole = make(frame, transform=RewardScaling(0.0, 2.0, in_keys=[("next", "reward")]))
    assert whole.split("train", history=5)[0]["observation", "history"].shape == (5,)
    assert whole.split("train", batch_size=3).batch_size == 3
    assert len(whole.split("train", transform=Compose())._transform) == 0
    made = whole.split("train", transform_factory=Compose)
    assert (len(made.sample()), len(made._transform)) == (8, 0)


def test_transforms_share_their_parameters_with_the_whole(frame):
    """A transform that asks a network that is being trained asks the same one in a part."""
    from torchrl.envs.transforms import Transform

    class Scaled(Transform):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__(in_keys=["propensity"], out_keys=["propensity"])
            self.module = module

        def forward(self, rows):
            return rows.set("scaled", self.module.weight[0] * torch.ones(rows.batch_size))

    network = torch.nn.Linear(1, 1)
    train = make(frame, transform=Scaled(network)).split("train")
    with torch.no_grad():
        network.weight.fill_(7.0)
    assert (train.sample()["scaled"] == 7).all()


@pytest.mark.parametrize("part", [None, "train"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_deep_copy_is_another_buffer_over_the_same_files(frame, name, part):
    unit = None if "slices" in name else WindowUnit(2)  # slices are windows already
    buffer = make(frame, sampler=SAMPLERS[name](), sample_unit=unit)
    buffer = buffer if part is None else buffer.split(part)
    buffer.sample()
    again = copy.deepcopy(buffer)
    assert (again[:] == buffer[:]).all()
    assert again[:].batch_size == buffer[:].batch_size
    assert again._log is buffer._log  # no row is copied
    for _ in range(3):  # it goes on from where the other stands, and each on its own
        assert (again.sample()["index"] == buffer.sample()["index"]).all()
    both = copy.deepcopy([buffer, buffer])
    assert both[0] is both[1]


def test_a_temporary_log_stays_as_long_as_a_copy_of_its_buffer(frame):
    buffer = make(frame)
    again = copy.deepcopy(buffer)
    folder = buffer._log.store.root
    del buffer
    assert folder.is_dir()
    assert len(pickle.loads(pickle.dumps(again))) == len(again)


def test_a_pickled_buffer_serves_a_worker(frame, tmp_path):
    sampler = QuantileSampler(kappa=0.3, seed=4)
    buffer = make(frame, root=tmp_path / "log", sampler=sampler).split("train")
    buffer.sample()
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(buffer))
    code = (
        "import pickle, sys; buffer = pickle.load(open(sys.argv[1], 'rb')); "
        "print(len(buffer), buffer.sample()['index'].tolist(), buffer.users.decode([0]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, tmp_path / "buffer.pkl"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    expected = (len(buffer), buffer.sample()["index"].tolist(), buffer.users.decode([0]))
    assert done.stdout.strip() == " ".join(map(str, expected))
