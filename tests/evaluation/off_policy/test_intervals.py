"""Intervals and verdicts against SciPy, closed forms and simulation."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torch.distributions import Categorical

from tests.evaluation.off_policy.worlds import draw, logged
from torchrl_drpo.evaluation.off_policy import (
    SEQUENCE_ESTIMATORS,
    SLATE_ESTIMATORS,
    LoggedRows,
    LoggedSessions,
    LoggedSlates,
    against,
    clipped_ips,
    diagnose,
    difference,
    direct_method,
    doubly_robust,
    ips,
    logging_value,
    score_log,
    snips,
)
from torchrl_drpo.evaluation.off_policy.diagnostics import pareto_shape
from torchrl_drpo.evaluation.off_policy.intervals import (
    gamma_interval,
    gamma_quantile,
    skewed_interval,
    skewed_p_value,
    standard_error,
    t_half_width,
)


@pytest.mark.parametrize("shape", [0.3, 1.0, 7.5, 400.0])
@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975])
def test_gamma_quantiles_are_scipy_s(shape: float, probability: float) -> None:
    expected = stats.gamma.ppf(probability, shape)
    assert gamma_quantile(probability, shape) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count", [0, 1, 12, 90])
def test_equal_events_have_the_exact_poisson_interval(count: int) -> None:
    low, high = gamma_interval(torch.ones(count).double(), 1.0, count=1)
    assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0)
    assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2)


def test_a_skewed_interval_is_hall_s() -> None:
    torch.manual_seed(0)
    x = torch.rand(300).double() ** 4
    phi = x - x.mean()
    low, high = skewed_interval(x.mean().item(), phi)
    n, s = len(x), x.std().item()
    g = float((((x - x.mean()) / x.std()) ** 3).mean())

    def transformed(theta: float) -> float:  # Hall's monotone cubic of the studentised mean
        w = (x.mean().item() - theta) / s
        return math.sqrt(n) * (w + g / 3 * w**2 + g**2 / 27 * w**3 + g / (6 * n))

    t = stats.t.ppf(0.975, n - 1)
    assert transformed(low) == pytest.approx(t, rel=1e-6)
    assert transformed(high) == pytest.approx(-t, rel=1e-6)
    half = t_half_width(standard_error(phi), n, 0.95)
    assert half == pytest.approx(t * s / math.sqrt(n), rel=1e-6)
    assert high - x.mean().item() > half > x.mean().item() - low  # more above than below


def test_rows_of_one_user_vary_together() -> None:
    phi = torch.randn(40, generator=torch.Generator().manual_seed(0)).double()
    phi -= phi.mean()
    repeated, cluster = phi.repeat_interleave(10), torch.arange(40).repeat_interleave(10)
    assert standard_error(repeated, cluster) == pytest.approx(standard_error(phi))
    assert standard_error(repeated) < standard_error(phi) / 3
    moved = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    assert standard_error(repeated[moved], cluster[moved]) == pytest.approx(standard_error(phi))
    one = torch.zeros(400).long()
    assert math.isnan(standard_error(repeated, one))
    assert math.isnan(skewed_interval(0.0, repeated, one)[0])


def test_rare_clicks_on_clipped_weights_have_the_gamma_interval() -> None:
    reward = torch.zeros(10_000)
    reward[::400] = 1
    logs = torch.full((10_000,), 0.1).log()
    found = clipped_ips(LoggedRows(reward, logs, logs))
    assert found.interval == "gamma"
    n = 25
    assert found.high * 10_000 == pytest.approx(stats.chi2.ppf(0.975, 2 * n + 2) / 2, rel=1e-6)
    assert clipped_ips(LoggedRows(1 - reward, logs, logs)).interval == "hall"
    assert clipped_ips(LoggedRows(-reward, logs, logs)).interval == "hall"


def test_the_direct_method_has_no_interval() -> None:
    found = direct_method(logged(draw()))
    assert math.isnan(found.low)
    assert found.interval == "none"
    assert found.verdict == "weak"
    assert found.to_json()["low"] is None
    with pytest.raises(ValueError, match="no standard error"):
        difference(found, ips(logged(draw())))


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.2])
def test_pareto_shapes_are_found(k: float) -> None:
    drawn = torch.as_tensor(stats.genpareto(k).rvs(20_000, random_state=1))
    assert pareto_shape(drawn) == pytest.approx(k, abs=0.06)
    assert pareto_shape(1000 * drawn) == pytest.approx(pareto_shape(drawn), abs=1e-9)


def test_tails_that_are_none() -> None:
    assert math.isnan(pareto_shape(torch.rand(30).double()))
    assert pareto_shape(torch.ones(1_000).double()) == -math.inf


def test_a_tail_that_ties_has_no_shape() -> None:
    # The popularity policy on a log whose propensities have a floor: 0.00018 and a little more.
    # Weights are counts over nearly one number, and the little is no tail of weights.
    generator = torch.Generator().manual_seed(0)
    count = 1 + torch.poisson(torch.full((6_000,), 2.5).double(), generator=generator)
    weight = count / (1 + 1e-4 * torch.rand(6_000, generator=generator).double())
    weight /= weight.mean()
    assert len(weight.unique()) > 5_900
    assert math.isnan(pareto_shape(weight))
    assert diagnose(weight).verdict == "usable"
    # Weights that all differ keep their shape where they lie upon a floor of .9.
    drawn = 0.9 + 0.1 * torch.as_tensor(stats.genpareto(1.2).rvs(20_000, random_state=1))
    assert pareto_shape(drawn) == pytest.approx(1.2, abs=0.06)


def test_verdicts() -> None:
    even = diagnose(torch.ones(500).double())
    assert (even.verdict, even.mean_weight_error) == ("usable", 0.0)
    two = torch.full((10_000,), 1e-3).double()
    two[:2] = 5_000.0
    found = diagnose(two)
    assert found.verdict == "meaningless"
    assert found.effective_rows == pytest.approx(2, rel=1e-2)
    assert any("worth 2.0 rows" in why for _, why in found.reasons())
    half = torch.full((5_000,), 0.5).double()
    half[::2] = 0.4
    lost = diagnose(half)  # half of the policy lies where nothing was logged
    assert lost.verdict == "meaningless"
    assert any("standard errors from 1" in why for _, why in lost.reasons())
    capped = diagnose(
        torch.tensor([1.0] * 400 + [50.0] * 10).double(),
        torch.tensor([1.0] * 400 + [5.0] * 10).double(),
    )
    assert capped.clip_rate == pytest.approx(10 / 410)
    assert capped.clipped_mass == pytest.approx(1 - 450 / 900)
    assert diagnose(torch.ones(500).double(), never_logged=0.2).verdict == "weak"


def heavy(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Logs of 500 with two heavy ones, which have different clusters."""
    log_target = torch.full(shape, 1e-4).double().log()
    log_target[::400] = -1e-3
    probs = {"log_target": log_target, "log_behavior": log_target.clamp(max=-7)}
    slots = {f"{name}_slot": each for name, each in probs.items()}
    return {"reward": torch.rand(shape).double(), **probs, **slots}


def without_slots(kind):
    def make(**columns):
        return kind(**{name: each for name, each in columns.items() if "slot" not in name})

    return make


@pytest.mark.parametrize(
    ("estimators", "make", "shape", "unit"),
    [
        ({"IPS": ips, "SNIPS": snips}, without_slots(LoggedRows), (500,), "row"),
        (SEQUENCE_ESTIMATORS, without_slots(LoggedSessions), (500, 1), "session"),
        (SLATE_ESTIMATORS, LoggedSlates, (500, 1), "slate"),
    ],
)
def test_reasons_speak_of_what_has_a_weight(estimators, make, shape, unit) -> None:
    alone = make(**heavy(shape))
    many = make(**heavy(shape), cluster=torch.arange(500) // 2)
    for name, estimator in estimators.items():
        if name in ("DM", "DR", "WDR") or "cascade" in name:
            continue  # they need a model, and diagnose as the others do
        said = "; ".join(why for _, why in estimator(alone).diagnostics.reasons())
        assert f" {unit}s" in said
        assert f"one {unit} has" in said
        assert ("row" in said) == (unit == "row")
        of_many = "; ".join(why for _, why in estimator(many).diagnostics.reasons())
        assert f"clusters of {unit}s" in of_many
        assert estimator(alone).to_json()["unit"] == unit


def test_users_of_a_log_are_the_clusters_of_every_interval() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(600, 5, generator=g)
    log = TensorDict({"user": torch.arange(600) // 4}, [600])
    log["action"] = torch.randint(5, (600,), generator=g)
    log["propensity"] = torch.full((600,), 0.2)
    taste = torch.rand(150, generator=g).repeat_interleave(4)
    log["next", "reward"] = (torch.rand(600, generator=g) < taste).float()
    rows = score_log(Categorical(logits=logits), log)
    w = (torch.softmax(logits.double(), -1).gather(-1, log["action"][:, None])[:, 0]) / 0.2
    r = log["next", "reward"].double()
    value = (w * r).sum() / w.sum()
    for estimator, phi in ((ips, w * r - (w * r).mean()), (snips, w * (r - value) / w.mean())):
        by_user = phi.reshape(150, 4).sum(-1)  # the sandwich of the users' sums, by hand
        want = math.sqrt(150 / 149 * by_user.square().sum().item()) / 600
        found = estimator(rows)
        assert found.standard_error == pytest.approx(want, rel=1e-5)
        assert found.diagnostics.units == 150
        alone = score_log(Categorical(logits=logits), log.exclude("user"))
        plain = estimator(alone)
        assert found.high - found.low > 1.1 * (plain.high - plain.low)
        assert difference(found, logging_value(rows)).standard_error != pytest.approx(
            difference(plain, logging_value(alone)).standard_error, rel=1e-3
        )


@pytest.mark.parametrize("power", [1, 6, -1])
@pytest.mark.parametrize("clusters", [None, 9, 60])
def test_p_values_are_those_of_the_interval(power: int, clusters: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(300, generator=generator).double().clamp_min(0.02) ** power
    phi = drawn - drawn.mean()
    cluster = None if clusters is None else torch.arange(300) % clusters
    error = standard_error(phi, cluster)
    for distance in (-4.0, -1.8, -0.3, 0.2, 1.5, 2.2, 5.0):
        value = distance * error
        inside, outside = 0.0, 1.0  # by bisection: the confidence at which an end meets 0
        for _ in range(60):
            middle = (inside + outside) / 2
            low, high = skewed_interval(value, phi, cluster, middle)
            inside, outside = (inside, middle) if low <= 0 <= high else (middle, outside)
        assert skewed_p_value(value, phi, cluster) == pytest.approx(1 - inside, abs=1e-9)
    assert math.isnan(skewed_p_value(1.0, phi[:1]))


def test_p_values_without_skewness_are_students() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(20, generator=generator).double()
    phi = torch.cat([half, -half])
    want = stats.ttest_1samp((0.3 + phi).numpy(), 0.0).pvalue
    assert skewed_p_value(0.3, phi) == pytest.approx(want, abs=1e-12)


def test_propensities_in_float32_have_mean_weight_one() -> None:
    target = torch.full((1_000,), 1 / 3, dtype=torch.float64).log()
    rows = LoggedRows(torch.arange(1_000) % 2, target, torch.full((1_000,), 1 / 3).log())
    assert rows.log_ratio.abs().max() > 1e-9
    assert ips(rows).verdict == "usable"
    off = LoggedRows(rows.reward, target - 1e-3, rows.log_behavior)  # a share was never logged
    assert ips(off).verdict == "meaningless"


def test_estimates_of_other_clusters_are_not_paired() -> None:
    rows = logged(draw(rows=300))
    user = torch.arange(300) // 3
    one, other = (ips(dataclasses.replace(rows, cluster=each)) for each in (user, user.flip(0)))
    assert difference(one, one).value == 0
    for wrong in (other, ips(dataclasses.replace(rows, cluster=None))):
        with pytest.raises(ValueError, match="other clusters"):
            difference(one, wrong)


def test_clicks_of_one_user_are_one_event() -> None:
    reward = torch.zeros(8_000).double()
    reward[: 30 * 20] = 1.0  # thirty users click at all of their rows, nobody else does
    half, user = torch.full((8_000,), 0.5).log(), torch.arange(8_000) // 20
    alone, many = (clipped_ips(LoggedRows(reward, half, half, cluster=c)) for c in (None, user))
    assert alone.diagnostics.effective_events == pytest.approx(600)
    assert (many.interval, many.diagnostics.effective_events) == ("gamma", pytest.approx(30))
    # Thirty events of size 20: the exact interval of a Poisson count.
    ends = stats.chi2.ppf(0.025, 60) / 2, stats.chi2.ppf(0.975, 62) / 2
    assert (many.low, many.high) == pytest.approx([20 * end / 8_000 for end in ends], rel=1e-6)


@pytest.mark.parametrize("elsewhere", [1e-7, 1e-3])
def test_clicks_that_weigh_nothing_are_no_evidence(elsewhere: float) -> None:
    # A sharp policy: 200 rows show its item, none of them is clicked, and 50 other rows are.
    reward, sharp = torch.zeros(5_000).double(), torch.full((5_000,), elsewhere).double()
    sharp[:200], reward[200:250] = 1 - 24 * elsewhere, 1.0
    found = ips(LoggedRows(reward, sharp.log(), torch.full((5_000,), 1 / 25).log()))
    assert found.diagnostics.effective_rows > 150
    assert found.verdict == "meaningless"
    assert diagnose(torch.ones(5_000), reward=reward).effective_events == pytest.approx(50)


@pytest.mark.slow
def test_usable_intervals_of_rare_clicks_cover() -> None:
    # Policies at all distances: chance alone decides whether the heavy rows have a click.
    draw = torch.Generator().manual_seed(0)
    held = []
    for noise in (0.5, 1.0, 1.5, 2.0, 2.5):
        for _ in range(10):
            logits, other = torch.randn(2, 80, generator=draw).double()
            logger, target = (torch.softmax(x, -1) for x in (logits, logits + noise * other))
            rate = 0.01 * torch.rand(80, generator=draw).double()
            item = torch.multinomial(logger.expand(40, -1), 10_000, True, generator=draw)
            click = (torch.rand(item.shape, generator=draw) < rate[item]).double()
            logs = zip(click, target.log()[item], logger.log()[item], strict=True)
            found = [snips(LoggedRows(*log)) for log in logs]
            truth = (target @ rate).item()
            held += [e.low <= truth <= e.high for e in found if e.verdict == "usable"]
    assert len(held) > 1_000
    assert sum(held) / len(held) > 0.93  # .92 and less where clicks of light rows are counted


@pytest.mark.parametrize("estimator", [ips, snips, clipped_ips])
@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_equal_rewards_have_no_spread_to_know(estimator, reward: float) -> None:
    half = torch.full((400,), 0.5).log()
    found = estimator(LoggedRows(torch.full((400,), reward), half, half))
    assert (found.value, found.verdict) == (reward, "weak")
    assert "all rewards are equal" in found.to_json()["reasons"][0]
    other = torch.full((400,), reward)
    other[0] = 0.5
    assert estimator(LoggedRows(other, half, half)).verdict == "usable"


def test_equal_policies_differ_by_nothing() -> None:
    rows = logged(draw())
    own = LoggedRows(rows.reward, rows.log_behavior, rows.log_behavior)
    found = difference(ips(own), logging_value(own))
    assert (found.value, found.standard_error, found.p_value) == (0.0, 0.0, 1.0)


def test_a_paired_difference_is_narrower_by_the_covariance() -> None:
    rows = logged(draw(rows=2_000))
    near = LoggedRows(
        rows.reward,
        torch.logaddexp(rows.log_target + math.log(0.1), rows.log_behavior + math.log(0.9)),
        rows.log_behavior,
    )
    candidate, own = ips(near), logging_value(near)
    found = difference(candidate, own)
    covariance = (candidate.influence @ own.influence).item() / 1_999 / 2_000
    expected = candidate.standard_error**2 + own.standard_error**2 - 2 * covariance
    assert found.standard_error == pytest.approx(math.sqrt(expected), rel=1e-6)
    apart = math.hypot(candidate.standard_error, own.standard_error)
    assert found.standard_error < 0.3 * apart
    with pytest.raises(ValueError, match="needs the same rows"):
        difference(candidate, ips(logged(draw(rows=300))))


def test_many_candidates_are_corrected() -> None:
    rows = logged(draw(rows=1_000))
    many = {"IPS": ips(rows), "SNIPS": snips(rows), "DR": doubly_robust(rows)}
    reference = logging_value(rows)
    alone = sorted(difference(each, reference).p_value for each in many.values())
    found = sorted(each.p_value for each in against(many, reference).values())
    assert found[0] == pytest.approx(min(1.0, 3 * alone[0]))
    assert found[-1] >= alone[-1]


@pytest.mark.parametrize("log_ratio", [460.0, 800.0])
@pytest.mark.parametrize("rows", [1, 500])
def test_weights_beyond_all_measure_are_meaningless(log_ratio: float, rows: int) -> None:
    log_target = torch.full((500,), -1.0).double()
    log_target[:rows] = log_ratio - 1
    huge = LoggedRows(torch.rand(500), log_target, torch.full((500,), -1.0), density=True)
    for estimator in (ips, snips):
        assert estimator(huge).verdict == "meaningless"


def test_users_most_of_whom_click_are_many_rows_and_no_rare_events() -> None:
    """150 users of 10 rows: a Poisson count of 150 would be twice as wide as their spread."""
    generator = torch.Generator().manual_seed(0)
    reward = (torch.rand(1_500, generator=generator) < 0.5).double()
    user = torch.arange(1_500) // 10
    logs = torch.full((1_500,), math.log(0.5), dtype=torch.float64)
    assert clipped_ips(LoggedRows(reward, logs, logs, cluster=user), cap=5.0).interval == "hall"
    seldom = reward * (user % 10 == 0)
    assert clipped_ips(LoggedRows(seldom, logs, logs, cluster=user), cap=5.0).interval == "gamma"
