"""What a log brings besides its actions: propensities, clusters, folds, and what is missing."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from tests.evaluation.off_policy.catalogue_log import N, V, make_actor, make_log
from torchrl_drpo import RecReplayBuffer
from torchrl_drpo.evaluation.off_policy import logs
from torchrl_drpo.evaluation.off_policy.estimators import ips
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import LogKeys, RowSample
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.rewards import AnnotatedBuffer, CrossFittedReward


def test_distinct_states_are_numpys():
    columns = {"a": torch.randint(2, (50, 2)), "b": torch.randint(2, (50,)).float()}
    rows = TensorDict(columns, [50])
    first, again = logs.distinct(rows, ["a", "b", "absent"])
    whole = torch.cat([rows["a"].double(), rows["b"].double().unsqueeze(-1)], -1)
    assert torch.equal(whole[first][again], whole)
    assert len(first) == len(whole.unique(dim=0))


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
