"""Estimators of sequences against formulas with loops, exact enumeration, bandits and SCOPE-RL."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import Estimate, LoggedRows, estimators
from torchrl_drpo.evaluation.off_policy.sequences import SEQUENCE_ESTIMATORS as ALL
from torchrl_drpo.evaluation.off_policy.sequences import LoggedSessions
from torchrl_drpo.evaluation.off_policy.sequences.weights import diagnose_products

UNWEIGHTED = ["TIS", "PDIS", "DR"]
GAMMA = 0.9


def drawn(
    sessions: int = 40, steps: int = 5, *, equal: bool = False, seed: int = 0, **options
) -> LoggedSessions:
    g = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(sessions, steps, generator=g, dtype=torch.float64)

    length = torch.randint(1, steps + 1, (sessions, 1), generator=g)
    length[0] = steps
    return LoggedSessions(
        reward=draw(-1, 2),
        log_target=draw(0.2, 1).log(),
        log_behavior=draw(0.2, 1).log(),
        mask=None if equal else torch.arange(steps) < length,
        prediction=draw(-1, 2),
        value=draw(-1, 2),
        gamma=GAMMA,
        **options,
    )


def same(found: Estimate, expected: Estimate) -> None:
    """Value, interval and verdict alike, whatever the name."""
    a, b = found.to_json(), expected.to_json()
    numbers = {key for key, value in b.items() if isinstance(value, float)}
    assert {key: a[key] for key in numbers} == pytest.approx({k: b[k] for k in numbers}, rel=1e-13)
    others = b.keys() - numbers - {"estimator", "unit", "reasons"}
    assert {key: a[key] for key in others} == {key: b[key] for key in others}
    assert len(a["reasons"]) == len(b["reasons"])


def by_loops(name: str, sessions: LoggedSessions, share: list[Tensor]) -> Tensor:
    """The formula, where session s is counted ``share[s]`` times S."""
    lengths, discount = sessions.lengths.tolist(), sessions.gamma
    w = []
    for s, length in enumerate(lengths):
        running, out = 1.0, [1.0]
        for t in range(sessions.reward.shape[1]):
            if t < length:
                running *= math.exp(sessions.log_target[s, t] - sessions.log_behavior[s, t])
            out.append(running)
        w.append(out)  # w[s][t + 1] is the product up to step t

    def mean_weight(t: int) -> Tensor:
        return sum(share[s] * w[s][t + 1] for s in range(len(lengths)))

    total = torch.zeros((), dtype=torch.float64)
    for s, length in enumerate(lengths):
        for t in range(length):
            r = sessions.reward[s, t].item()
            q, v = sessions.prediction[s, t].item(), sessions.value[s, t].item()
            end = sessions.reward.shape[1] - 1
            now, before = w[s][t + 1], w[s][t]
            norm, norm_before = mean_weight(t), mean_weight(t - 1)
            term = {
                "TIS": w[s][-1] * r,
                "WTIS": w[s][-1] * r / mean_weight(end),
                "PDIS": now * r,
                "WPDIS": now * r / norm,
                "DM": v if t == 0 else 0.0,
                "DR": now * (r - q) + before * v,
                "WDR": now * (r - q) / norm + before * v / norm_before,
            }[name]
            total = total + share[s] * discount**t * term
    return total


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_value_and_influence_are_the_formulas(name: str, equal: bool) -> None:
    sessions = drawn(12, 4, equal=equal)
    share = [torch.tensor(1 / 12, dtype=torch.float64, requires_grad=True) for _ in range(12)]
    value = by_loops(name, sessions, share)
    found = ALL[name](sessions)
    assert found.value == pytest.approx(value.item(), abs=1e-12)
    if name == "DM":
        assert math.isnan(found.standard_error)
        assert found.verdict == "weak"
        return
    # What more of a session would change is what it adds: the infinitesimal jackknife.
    slope = torch.stack(torch.autograd.grad(value, share))
    torch.testing.assert_close(found.influence, slope - slope.mean(), atol=1e-10, rtol=0)
    assert found.standard_error == pytest.approx((slope.std() / math.sqrt(12)).item(), rel=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name: str) -> None:
    sessions = drawn()
    columns = {f.name: getattr(sessions, f.name) for f in fields(sessions)}
    garbage = torch.full((len(sessions), 3), math.nan)
    wider = {
        key: torch.cat([torch.where(sessions.mask, column, math.nan), garbage], 1)
        for key, column in columns.items()
        if isinstance(column, Tensor) and key != "mask"
    }
    mask = torch.cat([sessions.mask, torch.zeros(len(sessions), 3, dtype=torch.bool)], 1)
    found = ALL[name](LoggedSessions(**wider, mask=mask, gamma=GAMMA))
    same(found, ALL[name](sessions))


@pytest.mark.parametrize(
    ("name", "bandit"),
    [
        ("TIS", "IPS"), ("PDIS", "IPS"), ("WTIS", "SNIPS"), ("WPDIS", "SNIPS"),
        ("DM", "DM"), ("DR", "DR"), ("WDR", "SNDR"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cluster", [None, torch.arange(200) // 3])
def test_one_step_is_the_bandit(name: str, bandit: str, cluster: Tensor | None) -> None:
    sessions = drawn(200, 1, cluster=cluster)
    columns = ("reward", "log_target", "log_behavior", "prediction", "value")
    rows = LoggedRows(**{key: getattr(sessions, key) for key in columns}, cluster=cluster)
    expected = estimators.ESTIMATORS[bandit](rows)
    same(ALL[name](sessions), expected)


def every_trajectory(steps: int = 3):
    """All sessions of a small world whose policies end them at different times.

    Two actions; action 1 earns 1 + t and may end the session: it does so in state 1. The next
    state is the action taken. Returns sessions, their probability, and the policy's value.
    """
    behavior = torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=torch.float64)
    target = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    paths, seen = [], set()
    for actions in itertools.product([0, 1], repeat=steps):
        state, path = 0, []
        for t, action in enumerate(actions):
            path.append((state, action, (1.0 + t) * action))
            if state == 1 and action == 1:
                break
            state = action
        if tuple(path) not in seen:
            seen.add(tuple(path))
            paths.append(path)
    g = torch.Generator().manual_seed(0)
    q = torch.randn(steps, 2, 2, generator=g, dtype=torch.float64)  # as wrong as can be
    names = ("reward", "log_target", "log_behavior", "prediction", "value")
    columns = {name: torch.zeros(len(paths), steps).double() for name in names}
    mask = torch.zeros(len(paths), steps, dtype=torch.bool)
    for i, path in enumerate(paths):
        for t, (state, action, reward) in enumerate(path):
            columns["reward"][i, t] = reward
            columns["log_target"][i, t] = target[state, action].log()
            columns["log_behavior"][i, t] = behavior[state, action].log()
            columns["prediction"][i, t] = q[t, state, action]
            columns["value"][i, t] = target[state] @ q[t, state]
            mask[i, t] = True
    sessions = LoggedSessions(**columns, mask=mask, gamma=GAMMA)
    log_of = {name: columns[name].sum(-1).exp() for name in ("log_target", "log_behavior")}
    assert log_of["log_behavior"].sum() == pytest.approx(1)
    return sessions, log_of["log_behavior"], (log_of["log_target"] * sessions.returns()).sum()


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_the_expectation_over_all_sessions_is_the_value(name: str) -> None:
    sessions, probability, truth = every_trajectory()
    found = ALL[name](sessions)
    assert (probability @ (found.influence + found.value)).item() == pytest.approx(
        truth.item(), abs=1e-12
    )


@pytest.mark.parametrize("name", ["WPDIS", "WDR", "WTIS"])
def test_weighted_forms_converge_to_the_value_since_ended_sessions_stay(name: str) -> None:
    sessions, probability, truth = every_trajectory()
    # A log with every session as often as it is likely: what a large one tends to.
    often = torch.arange(len(sessions)).repeat_interleave((probability * 10_000).round().long())
    assert len(often) == 10_000
    assert ALL[name](sessions.take(often)).value == pytest.approx(truth.item(), abs=2e-3)
    alive = sessions.log_weights.exp() * sessions.mask  # dividing by these, as if none had ended
    step = (sessions.reward * alive * probability[:, None]).sum(0) / (
        alive * probability[:, None]
    ).sum(0)
    assert abs((sessions.discounts * step).sum() - truth) > 0.1


def test_standard_errors_are_the_spread_of_replications() -> None:
    sessions, probability, _ = every_trajectory()
    g = torch.Generator().manual_seed(1)
    logs = [
        sessions.take(torch.multinomial(probability, 300, True, generator=g)) for _ in range(300)
    ]
    for name in ("WTIS", "PDIS", "WPDIS", "DR", "WDR"):
        found = [ALL[name](log) for log in logs]
        spread = torch.tensor([each.value for each in found]).double().std()
        told = torch.tensor([each.standard_error for each in found]).mean()
        assert told / spread == pytest.approx(1, abs=0.12), name  # +- 4 % by chance


@pytest.mark.parametrize("name", ALL)
def test_200_steps_near_propensity_1e_4_stay_finite(name: str) -> None:
    sessions = drawn(50, 200)
    sessions = replace(
        sessions,
        log_behavior=sessions.log_behavior / 10 + math.log(1e-4),  # the product: 1e-800
        log_target=sessions.log_target / 10 + math.log(1e-4),
    )
    found = ALL[name](sessions)
    assert math.isfinite(found.value)
    ratio = [
        math.fsum((a - b).tolist())
        for a, b in zip(sessions.log_target, sessions.log_behavior, strict=True)
    ]
    weight = np.exp(np.array(ratio) - max(ratio))
    assert found.diagnostics.effective_rows == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_weights_beyond_float64_are_refused_or_called_meaningless() -> None:
    sessions = replace(drawn(300, 200, equal=True), log_target=torch.zeros(300, 200))
    sessions = replace(sessions, log_behavior=sessions.log_behavior + math.log(1e-4))
    for name in UNWEIGHTED:
        with pytest.raises(ValueError, match=r"the weight of row \d+ is e\^\d+"):
            ALL[name](sessions)
    for name in ("WTIS", "WPDIS", "WDR"):
        found = ALL[name](sessions)
        assert math.isfinite(found.value)
        assert math.isfinite(found.standard_error)
        assert found.verdict == "meaningless"
    alike = diagnose_products(
        torch.full((300,), 900.0).double()
    )  # no row stands out, none is right
    assert alike.verdict == "meaningless"


@pytest.mark.parametrize("name", ALL)
def test_no_overlap_at_the_end_is_an_error(name: str) -> None:
    sessions = drawn(30, 3, equal=True)
    never = sessions.log_target.clone()
    never[:, 2] = -torch.inf
    with pytest.raises(ValueError, match="no overlap"):
        ALL[name](replace(sessions, log_target=never))
    short = replace(sessions, log_target=never).first(2)
    assert ALL["PDIS"](short).value == pytest.approx(ALL["PDIS"](sessions.first(2)).value)


@pytest.mark.parametrize("name", ["DR", "WDR", "DM"])
def test_a_model_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match=r"this estimator needs `(prediction|value)`"):
        ALL[name](replace(drawn(), prediction=None, value=None))


@pytest.mark.parametrize("name", [name for name in ALL if name != "DM"])
def test_a_truncated_session_warns_or_goes_on_by_its_final_value(name: str) -> None:
    cut = torch.arange(40) % 4 == 0
    sessions = drawn(truncated=cut)
    with pytest.warns(UserWarning, match="10 of 40 sessions are truncated"):
        ALL[name](sessions)
    after = torch.where(cut, torch.linspace(0, 2, 40).double(), math.nan)
    reward, last = sessions.reward.clone(), sessions.lengths - 1
    for s in cut.nonzero().flatten().tolist():
        reward[s, last[s]] += GAMMA * after[s]
    expected = ALL[name](replace(sessions, reward=reward, truncated=None))
    found = ALL[name](replace(sessions, final_value=after))
    assert found.value == pytest.approx(expected.value, rel=1e-12)


SCOPE_RL = {
    "TIS": "TrajectoryWiseImportanceSampling",
    "WTIS": "SelfNormalizedTIS",
    "PDIS": "PerDecisionImportanceSampling",
    "WPDIS": "SelfNormalizedPDIS",
    "DM": "DirectMethod",
    "DR": "DoublyRobust",
    "WDR": "SelfNormalizedDR",
}


@pytest.mark.parametrize("name", SCOPE_RL)
def test_equal_lengths_are_scope_rls_value(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports'
        theirs = pytest.importorskip("scope_rl.ope.discrete.basic_estimators", exc_type=ImportError)
    rng, shape = np.random.default_rng(0), (60, 4, 3)
    behavior, target = (
        rng.dirichlet(np.ones(3) * 3, shape[:2]),
        rng.dirichlet(np.ones(3) * 3, shape[:2]),
    )
    q, action = rng.normal(0, 1, shape), rng.integers(0, 3, shape[:2])
    reward = rng.normal(1, 1, shape[:2])

    def chosen(table: np.ndarray) -> np.ndarray:
        return np.take_along_axis(table, action[..., None], -1)[..., 0]

    value = getattr(theirs, SCOPE_RL[name])().estimate_policy_value(
        step_per_trajectory=4,
        action=action.reshape(-1),
        reward=reward.reshape(-1),
        pscore=chosen(behavior).reshape(-1),
        evaluation_policy_action_dist=target.reshape(-1, 3),
        state_action_value_prediction=q.reshape(-1, 3),
        gamma=GAMMA,
    )
    sessions = LoggedSessions(
        reward=torch.from_numpy(reward),
        log_target=torch.from_numpy(chosen(target)).log(),
        log_behavior=torch.from_numpy(chosen(behavior)).log(),
        prediction=torch.from_numpy(chosen(q)),
        value=torch.from_numpy((target * q).sum(-1)),
        gamma=GAMMA,
    )
    assert ALL[name](sessions).value == pytest.approx(float(value), rel=1e-6)
