"""From policies and logs to rows: against dense float64 tables, whatever holds log and policy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.evaluation.off_policy.catalogue_log import V, dense, make_actor, make_log, make_model
from torchrl_drpo import CatalogueCategorical, RecReplayBuffer
from torchrl_drpo.evaluation.off_policy.catalogue import TILE, catalogue_sums
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import RowSample
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.policies import catalogue_policy


@pytest.mark.parametrize("tile", [(7, 5), (256, 1024)])
@pytest.mark.parametrize("bias", [False, True])
def test_columns_equal_dense_tables(monkeypatch, tile, bias):
    monkeypatch.setitem(TILE, "cpu", tile)
    log, actor, model = make_log(), make_actor(bias=bias), make_model()
    rows = score_log(actor, log, reward_model=model, block=17)
    log_p, q = dense(actor, log, model)
    at = log["action"].unsqueeze(-1)
    unseen = torch.bincount(log["action"], minlength=V) == 0
    torch.testing.assert_close(rows.log_target, log_p.gather(-1, at)[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(rows.prediction, q.gather(-1, at)[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(rows.value, (log_p.exp() * q).sum(-1), rtol=0, atol=1e-6)
    assert rows.never_logged == pytest.approx(
        log_p.exp()[:, unseen].sum(-1).mean().item(), abs=1e-7
    )
    torch.testing.assert_close(rows.log_behavior, log["propensity"].double().log())
    assert torch.equal(rows.cluster, log["user"])
    with torch.no_grad():
        own = actor.get_dist(log).log_prob(log["action"]).double()
    torch.testing.assert_close(rows.log_target, own, rtol=0, atol=1e-6)


def ways(log, folder):
    buffer = RecReplayBuffer.from_tensordict(log, root=folder, batch_size=8)
    actor, model = make_actor(), make_model()
    everything = RowSample(log, 10**6)
    return {
        "buffer": (actor, buffer, model),
        "batches": (actor, buffer.batches(13), model),
        "list of blocks": (actor, list(log.split(7)), model),
        "sample of all": (actor, everything, model),
        "function": (actor.get_dist, log, model),
        "distribution": (actor.get_dist(log), log, model),
        "torch's Categorical": (Categorical(logits=actor.get_dist(log).logits), log, model),
        "predict_all": (actor, log, _Every(model)),
        "training mode": (_dropout(make_actor()), log, model),
    }


class _Every:
    """The pipeline's face of a catalogue model: all items at once."""

    def __init__(self, model):
        self.model, self.in_keys = model, model.in_keys

    def __call__(self, rows):
        return self.model(rows)

    def predict_all(self, rows):
        return self.model.tiles(rows)(slice(None))(slice(None))


def _dropout(actor):
    catalogue_policy(actor).encoder.mlp.append(nn.Dropout(0.5))
    return actor.train()


@pytest.mark.parametrize("way", list(ways(make_log(9), None)))
def test_whatever_holds_log_policy_and_model(way, tmp_path):
    log = make_log()
    expected = score_log(make_actor(), log, reward_model=make_model())
    policy, given, model = ways(log, tmp_path / "log")[way]
    rows = score_log(policy, given, reward_model=model)
    for name in ("reward", "log_target", "log_behavior", "prediction", "value", "cluster"):
        want, got = getattr(expected, name), getattr(rows, name)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    if isinstance(given, list) or way == "batches":
        assert math.isnan(rows.never_logged)  # nobody knows the other blocks
    else:
        assert rows.never_logged == pytest.approx(expected.never_logged, abs=1e-7)


def test_states_that_repeat_are_scored_once(monkeypatch):
    log, seen = make_log(), []
    log = torch.cat([log[:20]] * 30)
    log["action"] = torch.randint(V, (600,))
    monkeypatch.setattr(
        "torchrl_drpo.evaluation.off_policy.columns.catalogue_sums",
        lambda dist, **rest: seen.append(dist.batch_shape) or catalogue_sums(dist, **rest),
    )
    rows = score_log(make_actor(), log, reward_model=make_model())
    log_p, q = dense(make_actor(), log, make_model())
    assert seen == [torch.Size([20])]
    torch.testing.assert_close(rows.value, (log_p.exp() * q).sum(-1), rtol=0, atol=1e-6)
    want = log_p.gather(-1, log["action"].unsqueeze(-1))[:, 0]
    torch.testing.assert_close(rows.log_target, want, rtol=0, atol=1e-6)


def test_draws_are_unbiased_seeded_and_of_the_right_variance():
    log, actor, model = make_log(2_000), make_actor(), make_model()
    log["propensity"] = torch.full((2_000,), 1 / (V - 5))
    exact = score_log(actor, log, reward_model=model)
    state = torch.get_rng_state()
    drawn = [
        score_log(actor, log, reward_model=model, draws=k, seed=s) for k, s in ((2, 0), (2, 1))
    ]
    again = score_log(actor, log, reward_model=model, draws=2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0].value, again.value)
    assert not torch.equal(drawn[0].value, drawn[1].value)
    torch.testing.assert_close(drawn[0].log_target, exact.log_target, rtol=0, atol=1e-6)
    noise = drawn[0].value - exact.value
    assert abs(noise.mean()) < 4 * noise.std() / 2_000**0.5
    assert drawn[0].never_logged == pytest.approx(exact.never_logged, abs=0.02)
    # Var_pi(q) / k on top of what the rows vary by
    log_p, q = dense(actor, log, model)
    spread = ((log_p.exp() * q.square()).sum(-1) - exact.value.square()).mean() / 2
    assert noise.var() == pytest.approx(spread.item(), rel=0.1)


def test_excluded_items_have_no_weight_and_no_value():
    log, actor = make_log(), make_actor()
    with torch.no_grad():
        catalogue_policy(actor).bias[:30] = -torch.inf
    rows = score_log(actor, log, reward_model=make_model())
    assert ((rows.log_target == -torch.inf) == (log["action"] < 30)).all()
    log_p, q = dense(actor, log, make_model())
    torch.testing.assert_close(rows.value, (log_p.exp() * q).sum(-1), rtol=0, atol=1e-6)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = [each.numel() for each in tree_leaves(out) if isinstance(each, torch.Tensor)]
        self.numel = max(self.numel, *found, 0)
        return out


@pytest.mark.parametrize("draws", [None, 2])
def test_nothing_holds_a_row_of_items_for_every_row(draws):
    rows, items = 2_000, 5_000
    log, model = make_log(rows, items), make_model(items)
    groups = ItemGroups(torch.arange(items) % 50)
    with _Largest() as largest:
        score_log(make_actor(items), log, reward_model=model, groups=groups, draws=draws)
    # a tile of scores, or a block of a sampling distribution's
    assert largest.numel <= 2**20


def test_hidden_states_in_half_precision_are_summed_in_float32():
    hidden, items = torch.randn(5, 8), torch.randn(3_000, 8)
    full = catalogue_sums(CatalogueCategorical(hidden.bfloat16().float(), items.bfloat16().float()))
    half = catalogue_sums(CatalogueCategorical(hidden.bfloat16(), items.bfloat16()))
    torch.testing.assert_close(half.log_normaliser, full.log_normaliser, rtol=0, atol=1e-5)
