from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer

from torchrl_drpo.data import (
    LogSchema,
    QuantileSampler,
    RecReplayBuffer,
    TrajectorySampler,
    WindowUnit,
)
from torchrl_drpo.data.samplers.counter import permute, uniform
from torchrl_drpo.functional.dro_programs import optimistic_dro_weights

QUALITIES = {
    "distinct": torch.randperm(200, generator=torch.Generator().manual_seed(0)).float(),
    "binary": (torch.arange(200) % 5 == 0).float(),
    "levels": (torch.arange(200) % 7).float(),
    "equal": torch.ones(200),
}


def make(sampler, quality, group=None, storage=LazyTensorStorage, **options):
    buffer = TensorDictReplayBuffer(storage=storage(len(quality)), sampler=sampler, **options)
    rows = TensorDict({"next": {"reward": quality.unsqueeze(-1)}}, [len(quality)])
    if group is not None:
        rows.set("group", group)
    buffer.extend(rows)
    return buffer


@settings(deadline=None)
@given(size=st.integers(1, 300), key=st.integers(0, 2**60))
def test_permute_is_a_bijection(size, key):
    assert sorted(permute(torch.arange(size), size, key).tolist()) == list(range(size))


def test_permute_takes_sizes_and_keys_of_each_entry():
    index, size = torch.tensor([0, 3, 900]), torch.tensor([1, 5, 1000])
    together = permute(index, size, torch.tensor([4, 5, 6]))
    alone = [permute(index[i : i + 1], int(size[i]), 4 + i).item() for i in range(3)]
    assert together.tolist() == alone
    huge = permute(torch.arange(50), 10**12, 1)
    assert len(set(huge.tolist())) == 50
    assert huge.max() > 10**11


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_permutations_are_all_equally_likely(size):
    keys = torch.arange(24_000)
    images = [permute(torch.full_like(keys, i), size, keys) for i in range(size)]
    _, counts = torch.stack(images, 1).unique(dim=0, return_counts=True)
    assert len(counts) == math.factorial(size)
    assert chisquare(counts).pvalue > 1e-4


def test_permutations_look_random():
    # where the first of 20 goes, over 4,000 keys: even; and next to nothing is a fixed point
    places = permute(torch.zeros(4000, dtype=torch.int64), 20, torch.arange(4000))
    assert chisquare(torch.bincount(places, minlength=20)).pvalue > 1e-3
    assert (permute(torch.arange(10_000), 10_000, 5) == torch.arange(10_000)).sum() < 10
    moved = permute(torch.arange(10_000), 10_000, 5)
    assert abs(np.corrcoef(moved, np.arange(10_000))[0, 1]) < 0.05


def test_uniform_is_uniform():
    counts = torch.histc(uniform(3, torch.arange(100_000)).float(), 50, 0, 1)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", QUALITIES)
@pytest.mark.parametrize("kappa", [0.005, 0.1, 0.35, 1.0])
def test_draws_follow_the_exact_solution(name, kappa):
    quality = QUALITIES[name]
    weights = optimistic_dro_weights(quality, kappa)  # kappa n is whole here, so quota and LP agree
    sampler = QuantileSampler(kappa, seed=1)
    sample = make(sampler, quality).sample(40_000)
    expected = weights.double() / len(quality)
    kept = expected > 0
    counts = torch.bincount(sample["index"], minlength=len(quality))
    assert counts[~kept].sum() == 0
    if kept.sum() > 1:
        assert chisquare(counts[kept], expected[kept] / expected.sum() * 40_000).pvalue > 1e-4
    # the reported ratio is (1/n) / probability, row by row
    ratio = 1 / (len(quality) * expected[sample["index"].long()])
    torch.testing.assert_close(sample["importance_weight"].double(), ratio, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", QUALITIES)
def test_groups_keep_their_share_and_have_their_own_quota(name):
    quality, group = QUALITIES[name], torch.arange(200) ** 2 % 13
    sample = make(QuantileSampler(0.3, group="group", seed=2), quality, group).sample(60_000)
    expected = torch.zeros(200, dtype=torch.float64)
    for g in group.unique():
        rows = (group == g).nonzero().squeeze(1)
        quota = max(1, int(0.3 * len(rows) + 0.5))
        share = optimistic_dro_weights(quality[rows].double(), quota / len(rows)) / len(rows)
        expected[rows] = share.double() * len(rows) / 200
    counts = torch.bincount(sample["index"], minlength=200)
    kept = expected > 1e-12
    assert counts[~kept].sum() == 0
    assert chisquare(counts[kept], expected[kept] * 60_000 / expected[kept].sum()).pvalue > 1e-4
    ratio = 1 / (200 * expected[sample["index"].long()])
    torch.testing.assert_close(sample["importance_weight"].double(), ratio, rtol=1e-5, atol=0)


@pytest.mark.parametrize("group", [None, "group"])
@pytest.mark.parametrize("name", QUALITIES)
def test_without_replacement_each_selected_row_comes_once_an_epoch(name, group):
    quality, groups = QUALITIES[name], torch.arange(200) % 3
    sampler = QuantileSampler(0.25, group=group, without_replacement=True, seed=3)
    buffer = make(sampler, quality, groups)
    # a quarter of 200 rows, or of groups of 67, 67 and 66: 16.75 and 16.5 both round to 17
    total = 50 if group is None else 3 * 17
    epochs = [buffer.sample(total)["index"].tolist() for _ in range(4)]
    for rows in epochs:
        assert len(set(rows)) == total
    assert epochs[0] != epochs[1]
    level = quality.sort(descending=True).values[49]
    if group is None:
        assert all(set((quality > level).nonzero().flatten().tolist()) <= set(e) for e in epochs)
    if name in ("binary", "equal") and group is None:  # who fills the quota changes
        assert set(epochs[0]) != set(epochs[1])


def test_ranks_share_an_epoch_without_overlap():
    quality = QUALITIES["distinct"]
    drawn = []
    for rank in range(3):
        sampler = QuantileSampler(
            0.5, without_replacement=True, rank=rank, world_size=3, seed=4
        )  # fmt: skip
        drawn.append(make(sampler, quality).sample(33)["index"].tolist())
    together = [row for rows in drawn for row in rows]
    assert len(set(together)) == 99  # 100 selected rows, one left out so that ranks stay in step
    assert all(quality[row] >= 100 for row in together)
    streams = [
        make(QuantileSampler(0.5, rank=r, world_size=2, seed=4), quality).sample(64)["index"]
        for r in range(2)
    ]
    assert streams[0].tolist() != streams[1].tolist()
    binary = [
        make(QuantileSampler(0.1, rank=r, world_size=2, seed=4), QUALITIES["binary"]).sample(64)
        for r in range(2)
    ]
    assert binary[0]["index"].tolist() != binary[1]["index"].tolist()


def test_kappa_moves_at_any_step():
    quality = QUALITIES["distinct"]
    for without in (False, True):
        sampler = QuantileSampler(0.5, without_replacement=without, seed=5)
        buffer = make(sampler, quality)
        for kappa in (0.5, torch.tensor([0.02]), 0.2):
            sampler.kappa = kappa
            rewards = buffer.sample(40)["next", "reward"]
            assert rewards.min() >= 200 - round(200 * float(kappa))


@pytest.mark.parametrize("without", [False, True])
@pytest.mark.parametrize("way", ["state_dict", "dumps"])
def test_resume_is_exact(tmp_path, without, way):
    def build():
        return make(
            QuantileSampler(0.3, group="group", without_replacement=without),
            QUALITIES["levels"], torch.arange(200) % 4, batch_size=17,
            generator=torch.Generator().manual_seed(6),
        )  # fmt: skip

    first, second = build(), build()
    for _ in range(7):
        first.sample()
    first.sampler.kappa = 0.2
    first.sample()
    if way == "state_dict":
        second.sampler.load_state_dict(first.sampler.state_dict())
    else:
        first.sampler.dumps(tmp_path)
        second.sampler.loads(tmp_path)
    assert second.sampler.kappa == 0.2
    for _ in range(9):
        assert first.sample()["index"].tolist() == second.sample()["index"].tolist()


def test_the_buffers_generator_seeds_the_sampler():
    def draws(seed):
        generator = torch.Generator().manual_seed(seed)
        return make(QuantileSampler(0.5), QUALITIES["levels"], generator=generator).sample(20)

    assert draws(1)["index"].tolist() == draws(1)["index"].tolist() != draws(2)["index"].tolist()


def test_a_write_is_seen():
    sampler = QuantileSampler(0.1, seed=0)
    buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(20), sampler=sampler)
    buffer.extend(TensorDict({"next": {"reward": torch.arange(10.0).unsqueeze(1)}}, [10]))
    assert buffer.sample(5)["next", "reward"].min() == 9
    buffer.extend(TensorDict({"next": {"reward": torch.full((10, 1), 50.0)}}, [10]))
    assert buffer.sample(5)["next", "reward"].min() == 50
    again = pickle.loads(pickle.dumps(sampler))
    assert again.sample(buffer.storage, 4)[0].min() >= 10


@pytest.mark.parametrize(
    ("make_sampler", "error", "message"),
    [
        (lambda: QuantileSampler(0.0), ValueError, r"kappa must lie in \(0, 1\]"),
        (lambda: QuantileSampler(float("nan")), ValueError, "kappa must lie"),
        (lambda: QuantileSampler(ties="last"), ValueError, "ties must be"),
        (lambda: QuantileSampler(rank=2, world_size=2, seed=0), ValueError, "rank must lie"),
        (lambda: QuantileSampler(world_size=2), ValueError, "must share a seed"),
    ],
)
def test_bad_arguments_are_refused(make_sampler, error, message):
    with pytest.raises(error, match=message):
        make_sampler()


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="quality must be finite but row 3"):
        make(QuantileSampler(), torch.tensor([1.0, 2, 3, torch.nan])).sample(2)
    sampler = QuantileSampler(0.5, without_replacement=True, rank=0, world_size=4, seed=0)
    with pytest.raises(ValueError, match="cannot be shared by 4 ranks"):
        make(sampler, torch.arange(4.0)).sample(1)
    with pytest.raises(ValueError, match="rank and world size"):
        QuantileSampler().load_state_dict(sampler.state_dict())
    with pytest.raises(RuntimeError, match="empty storage"):
        QuantileSampler().sample(LazyTensorStorage(3), 1)


@pytest.fixture
def log(frame) -> RecReplayBuffer:
    schema = LogSchema(user="user", item="item", time="time", quality="play", session_gap=40_000.0)
    return RecReplayBuffer.from_pandas(frame, schema, test_days=2, history=3)


@pytest.mark.parametrize("part", [None, "train", "test"])
def test_quantiles_of_a_log(log, part):
    buffer = log if part is None else log.split(part)
    buffer.set_sampler(QuantileSampler(0.1, seed=1))
    rows = buffer.sample(300)
    quota = max(1, int(0.1 * len(buffer) + 0.5))
    threshold = buffer.quality.sort(descending=True).values[quota - 1]
    assert rows["next", "reward"].min() >= threshold
    assert rows["observation", "history"].shape == (300, 3)
    assert rows["importance_weight"].shape == (300,)


@pytest.mark.parametrize("part", [None, "test"])
def test_trajectories_are_drawn_evenly_whatever_their_length(log, part):
    buffer = log if part is None else log.split(part)
    all_rows = buffer.column("trajectory_id")
    names, lengths = all_rows.unique(return_counts=True)
    sampler = TrajectorySampler(seed=0)
    index, _ = sampler.sample(buffer.storage, 20_000)
    counts = torch.bincount(torch.searchsorted(names, all_rows[index]), minlength=len(names))
    assert chisquare(counts).pvalue > 1e-4
    firsts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)[:-1]])
    assert set(index.tolist()) <= set(firsts.tolist())
    anywhere, _ = TrajectorySampler(seed=0, anywhere=True).sample(buffer.storage, 20_000)
    expected = 20_000 / (len(names) * lengths.repeat_interleave(lengths).double())
    counted = torch.bincount(anywhere, minlength=len(buffer))
    assert chisquare(counted, expected).pvalue > 1e-4


def test_whole_trajectories_come_padded_with_a_mask(log):
    longest = int(log.column("step").max()) + 1
    log._sample_unit = None
    buffer = RecReplayBuffer(
        log._log, history=0, sampler=TrajectorySampler(seed=1), sample_unit=WindowUnit(longest)
    )
    rows = buffer.sample(50)
    mask = rows["collector", "mask"]
    sizes = log.column("trajectory_id").bincount()
    assert mask.sum(1).tolist() == sizes[rows["trajectory_id"][:, 0]].tolist()
    assert (rows["step"] == torch.arange(longest))[mask].all()
    state = buffer.sampler.state_dict()
    following = buffer.sample(5)["index"]
    buffer.sampler.load_state_dict(state)
    assert torch.equal(buffer.sample(5)["index"], following)


@pytest.mark.parametrize("kind", [QuantileSampler, TrajectorySampler])
def test_a_sampler_that_moves_to_equally_many_rows_looks_at_them(kind):
    """What it learned of one part is not true of another, however long that is."""
    row = torch.arange(20)
    buffers = []
    for length in (2, 5):
        reward = (row % length == 1).float().unsqueeze(-1)
        rows = TensorDict({"next": {"reward": reward}, "trajectory_id": row // length}, [20])
        buffers.append(TensorDictReplayBuffer(storage=LazyTensorStorage(20)))
        buffers[-1].extend(rows)
    moved = kind(seed=5)
    for buffer in buffers:
        fresh = kind(seed=5)
        fresh.load_state_dict(moved.state_dict())
        drawn = [sampler.sample(buffer.storage, 64)[0] for sampler in (moved, fresh)]
        assert torch.equal(*drawn)


@pytest.mark.parametrize(
    "changes", [{"drawn": -1}, {"drawn": 1.5}, {"drawn": None}, {"seed": "7"}, {"seed": 0.5}]
)
def test_states_that_count_nothing_are_refused(changes):
    state = TrajectorySampler(seed=3).state_dict()
    with pytest.raises(ValueError, match="a sampler's state counts draws from 0, got"):
        TrajectorySampler().load_state_dict({**state, **changes})
    for kappa in (0.0, 1.5, float("nan")):
        sampler = QuantileSampler(kappa=0.5)
        with pytest.raises(ValueError, match="kappa"):
            sampler.load_state_dict({**sampler.state_dict(), "kappa": kappa})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_qualities_that_cannot_be_ranked_are_refused(bad):
    quality = torch.arange(5.0)
    quality[3] = bad
    with pytest.raises(ValueError, match="quality must be finite"):
        make(QuantileSampler(kappa=0.5), quality).sample(4)
