"""From policies and logs to rows: against dense float64 tables, whatever holds log and policy."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical, Independent, Normal
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchrl_drpo import CatalogueCategorical, RecReplayBuffer, make_catalogue_actor
from torchrl_drpo.evaluation.off_policy import logs
from torchrl_drpo.evaluation.off_policy.catalogue import TILE, catalogue_sums
from torchrl_drpo.evaluation.off_policy.estimators import ips
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import LogKeys, RowSample
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.evaluation.off_policy.predictions import InnerProductReward
from torchrl_drpo.policies import catalogue_policy
from torchrl_drpo.rewards import AnnotatedBuffer, CrossFittedReward

N, V, D, L = 60, 37, 4, 3


def make_log(count: int = N, items: int = V) -> TensorDict:
    g = torch.Generator().manual_seed(1)
    log = TensorDict({"action": torch.randint(items - 5, (count,), generator=g)}, [count])
    log["observation", "history"] = torch.randint(-1, items, (count, L), generator=g)
    log["next", "reward"] = torch.rand(count, 1, generator=g)
    log["propensity"] = 0.01 + 0.5 * torch.rand(count, generator=g)
    log["user"] = torch.arange(count) // 3
    log["x"] = torch.randn(count, 2, generator=g)
    return log


def make_actor(items: int = V, *, bias: bool = True):
    torch.manual_seed(2)
    actor = make_catalogue_actor(items, dim=D, history=L, temperature=0.7, bias=bias)
    if bias:
        nn.init.normal_(catalogue_policy(actor).bias)
    return actor


def make_model(items: int = V) -> InnerProductReward:
    g = torch.Generator().manual_seed(3)
    table, bias = torch.randn(items, 2, generator=g), torch.randn(items, generator=g)
    return InnerProductReward(
        lambda rows: rows["x"], table, bias, lambda rows: rows["x"].sum(-1), in_keys=["x"]
    )


def dense(actor, log, model) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and predictions of all items at all rows, float64 ``[N, V]``."""
    policy = catalogue_policy(actor)
    with torch.no_grad():
        hidden = actor.get_dist(log).hidden.double()
        bias = 0 if policy.bias is None else policy.bias.double()
        logits = (hidden @ policy.items.double().T + bias) / 0.7
        x = log["x"].double()
        q = x @ model.items.double().T + model.bias.double() + x.sum(-1, keepdim=True)
    return logits.log_softmax(-1), q


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


def test_distinct_states_are_numpys():
    columns = {"a": torch.randint(2, (50, 2)), "b": torch.randint(2, (50,)).float()}
    rows = TensorDict(columns, [50])
    first, again = logs.distinct(rows, ["a", "b", "absent"])
    whole = torch.cat([rows["a"].double(), rows["b"].double().unsqueeze(-1)], -1)
    assert torch.equal(whole[first][again], whole)
    assert len(first) == len(whole.unique(dim=0))


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


def test_a_sample_of_rows_is_part_of_the_log_and_says_so(tmp_path):
    log = make_log(500)
    buffer = RecReplayBuffer.from_tensordict(log, root=tmp_path / "log", batch_size=8)
    sample = RowSample(buffer, 90, seed=4)
    assert len(sample.index.unique()) == 90
    assert (sample.index.diff() > 0).all()
    every, some = score_log(make_actor(), log), score_log(make_actor(), sample)
    torch.testing.assert_close(some.log_target, every.log_target[sample.index], rtol=0, atol=1e-6)
    torch.testing.assert_close(some.reward, every.reward[sample.index])
    assert ips(some).to_json()["log_rows"] == 500
    assert ips(every).to_json()["log_rows"] is None
    # what was never logged is a matter of the whole log
    unseen = torch.bincount(log["action"], minlength=V) == 0
    p = make_actor().get_dist(log[sample.index]).probs[:, unseen].sum(-1).mean()
    assert some.never_logged == pytest.approx(p.item(), abs=1e-6)
    means = [score_log(make_actor(), RowSample(log, 90, seed=s)).reward.mean() for s in range(40)]
    assert torch.stack(means).mean() == pytest.approx(log["next", "reward"].mean().item(), abs=0.02)


def test_logarithms_of_propensities_win_where_probabilities_have_vanished():
    log = make_log()
    log["log_propensity"] = torch.full((N,), -120.0)
    log["propensity"] = log["log_propensity"].exp()  # 0 in float32
    assert (score_log(make_actor(), log).log_behavior == -120).all()


@pytest.mark.parametrize("key", ["user", "trajectory_id", "slate", None])
def test_clusters_are_the_first_that_the_rows_have(key):
    log = make_log().exclude("user")
    for number, name in enumerate(["user", "trajectory_id", "slate"]):
        if key is not None and number >= ["user", "trajectory_id", "slate"].index(key):
            log[name] = torch.full((N, 1), number)
    rows = score_log(make_actor(), log)
    if key is None:
        assert rows.cluster is None
    else:
        assert (rows.cluster == ["user", "trajectory_id", "slate"].index(key)).all()


def test_cross_fitted_models_judge_rows_that_they_have_not_seen():
    class Mean(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.register_buffer("mean", mean)

        def forward(self, action):
            return self.mean + 0 * action.float()

    def fit(rows):
        mean = Mean(rows["next", "reward"].mean())
        return TensorDictModule(mean, ["action"], ["value"])

    log = make_log()
    with pytest.warns(UserWarning, match="explains nothing"):
        model = CrossFittedReward.fit(log, fit, folds=3)
    rows = score_log(make_actor(), log, reward_model=model, draws=2)
    for fold in range(3):
        others = log["next", "reward"][log["fold"] != fold].mean().double()
        torch.testing.assert_close(rows.prediction[log["fold"] == fold].unique().float().double(),
                                   others.reshape(1).float().double())  # fmt: skip
        torch.testing.assert_close(rows.value, rows.prediction)
    bare = log.exclude("fold")
    with pytest.raises(KeyError, match="unseen=True"):
        score_log(make_actor(), bare, reward_model=model, draws=2)
    mean = score_log(make_actor(), bare, reward_model=model, draws=2, unseen=True)
    assert len(mean.prediction.unique()) == 1
    buffer = RecReplayBuffer.from_tensordict(bare, batch_size=8)
    annotated = AnnotatedBuffer(buffer, log.select("fold"))
    again = score_log(make_actor(), annotated, reward_model=model, draws=2)
    torch.testing.assert_close(again.prediction, rows.prediction)


def test_the_logging_policy_itself_gives_propensities_and_weights_of_one():
    log, actor = make_log(), make_actor()
    groups = ItemGroups(torch.arange(V) % 5)
    rows = score_log(actor, log.exclude("propensity"), behavior=actor, groups=groups)
    assert rows.log_ratio.abs().max() < 1e-6
    assert rows.log_group_ratio.abs().max() < 1e-6


def test_vectors_have_densities_when_they_are_said_to():
    log = make_log()
    log["action"] = torch.randn(N, 2)
    log["log_propensity"] = torch.full((N,), 1.5)
    policy = Independent(Normal(log["x"], 0.1), 1)
    rows = score_log(policy, log, density=True)
    torch.testing.assert_close(rows.log_target, policy.log_prob(log["action"]).double())
    with pytest.raises(ValueError, match="density=True"):
        score_log(policy, log)
    with pytest.raises(ValueError, match="event"):
        score_log(lambda rows: Normal(rows["x"], 0.1), log, density=True)
    model = TensorDictModule(lambda x, a: (x * a).sum(-1), ["x", "action"], ["q"])
    with pytest.raises(ValueError, match="draws=64"):
        score_log(policy, log, density=True, reward_model=model)
    value = score_log(policy, log, density=True, reward_model=model, draws=500).value
    torch.testing.assert_close(value, log["x"].square().sum(-1).double(), rtol=0, atol=0.1)


def _changed(**columns):
    log = make_log()
    for name, value in columns.items():
        log = log.exclude(name) if value is None else log.set(name, value)
    return log


REFUSED = {
    "no propensity": (
        lambda: score_log(make_actor(), _changed(propensity=None)),
        KeyError,
        "fit_b",
    ),
    "certain logger": (
        lambda: score_log(make_actor(), _changed(propensity=torch.ones(N))),
        ValueError,
        "deterministic",
    ),
    "other catalogue": (
        lambda: score_log(lambda rows: Categorical(torch.ones(len(rows), 9)), make_log()),
        ValueError,
        r"\[0, 9\)",
    ),
    "no such action": (
        lambda: score_log(make_actor(), make_log(), keys=LogKeys(action="item")),
        KeyError,
        "no action",
    ),
    "no reward": (lambda: score_log(make_actor(), make_log().exclude("next")), KeyError, "reward"),
    "model without tiles": (
        lambda: score_log(make_actor(), make_log(), reward_model=lambda rows: rows["x"][:, 0]),
        ValueError,
        "draws=64",
    ),
    "model that ignores the action": (
        lambda: score_log(
            make_actor(),
            make_log(),
            reward_model=TensorDictModule(nn.Linear(2, 1), ["x"], ["q"]),
            draws=4,
        ),
        ValueError,
        "that of any action",
    ),
    "no rows": (lambda: score_log(make_actor(), []), ValueError, "at least one"),
    "sample of blocks": (lambda: RowSample([make_log()], 5), TypeError, "buffer itself"),
    "distribution over blocks": (
        lambda: score_log(make_actor().get_dist(make_log()), [make_log()]),
        TypeError,
        "one TensorDict",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_evaluated_is_refused(case):
    call, kind, match = REFUSED[case]
    with pytest.raises(kind, match=match):
        call()


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
