"""The remoteness of every kind of policy, as tapers see it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.distributions import Beta, Categorical, Distribution, Independent, Normal
from torchrl.modules import (
    Delta,
    IndependentNormal,
    LLMMaskedCategorical,
    MaskedCategorical,
    NormalParamExtractor,
    OneHotCategorical,
    ProbabilisticActor,
    TanhDelta,
    TanhNormal,
)

import torchrl_drpo as drpo
from torchrl_drpo.functional.remoteness import sequence_remoteness
from torchrl_drpo.objectives import PhantomGradientMonitor
from torchrl_drpo.objectives._batch import action_log_prob
from torchrl_drpo.objectives._remoteness import remoteness_and_score
from torchrl_drpo.policies.gaussian import DiagonalNormal

N, T, CODES = 12, 3, 5


def semantic(mask: Tensor | None = None, *batch: int) -> drpo.SemanticIDCategorical:
    return drpo.SemanticIDCategorical(torch.randn(*(batch or (N,)), T, CODES), mask)


GAUSSIANS: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "Independent": lambda loc, scale: Independent(Normal(loc, scale), 1),
    "open": Normal,
    "DiagonalNormal": DiagonalNormal,
    "IndependentNormal": IndependentNormal,
    "TanhNormal": partial(TanhNormal, low=-2.0, high=4.0),
    "TanhNormal, open": partial(TanhNormal, low=-2.0, high=4.0, event_dims=0),
}


@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("name", GAUSSIANS)
def test_gaussian(name: str, steps: int | None):
    batch = (N,) if steps is None else (N, steps)
    loc, scale = torch.randn(*batch, 3), torch.rand(*batch, 3) + 0.5
    raw = torch.randn(*batch, 3, dtype=torch.float64)
    action = raw if "Tanh" not in name else -2.0 + 6.0 * (raw.tanh() + 1) / 2
    dist, action = GAUSSIANS[name](loc, scale), action.float()
    squares = ((raw - loc.double()) / scale.double()).square().sum(-1)
    mask, log_prob = None, action_log_prob(dist, action, torch.Size(batch))
    if steps is not None:  # a trajectory's is the mean over its valid steps
        mask = torch.arange(steps) < torch.randint(1, steps + 1, (N, 1))
        squares = torch.where(mask, squares, 0.0).sum(1) / mask.sum(1)
        log_prob = torch.where(mask, log_prob, 0.0).sum(1)
    given = dist, action, log_prob, torch.Size(batch)
    distance, score = remoteness_and_score(*given, mask=mask)
    torch.testing.assert_close(distance, squares.float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(score, distance.sqrt())
    per_dimension, _ = remoteness_and_score(*given, "per_dimension", mask)
    torch.testing.assert_close(per_dimension, distance / 3)


def test_one_number_an_action_is_no_vector_over_the_batch():
    dist, action = Normal(torch.zeros(N), torch.full((N,), 2.0)), torch.arange(float(N))
    distance, _ = remoteness_and_score(dist, action, dist.log_prob(action), torch.Size([N]))
    torch.testing.assert_close(distance, (action / 2).square())


@pytest.mark.parametrize(
    "make",
    [
        lambda logits: Categorical(logits=logits),
        lambda logits: MaskedCategorical(logits=logits, mask=torch.arange(CODES) != 1),
        lambda logits: OneHotCategorical(logits=logits),
        lambda logits: torch.distributions.OneHotCategorical(logits=logits),
    ],
)
def test_categorical(make: Callable[[Tensor], Distribution]):
    dist = make(torch.randn(N, CODES))
    action = dist.sample()
    log_prob = dist.log_prob(action)
    given = dist, action, log_prob, torch.Size([N])
    distance, score = remoteness_and_score(*given)
    torch.testing.assert_close(distance, -log_prob)
    torch.testing.assert_close(score, 1 - log_prob.exp())
    with pytest.raises(ValueError, match="'per_dimension' is for Gaussian policies"):
        remoteness_and_score(*given, "per_dimension")


@pytest.mark.parametrize("position_level", [False, True])
def test_a_language_models_tokens_are_its_choices(position_level: bool):
    seen = torch.arange(T) < torch.randint(1, T + 1, (N, 1))
    mask = seen if position_level else torch.ones(N, T, CODES, dtype=torch.bool)
    dist = LLMMaskedCategorical(torch.randn(N, T, CODES), mask)
    action = torch.randint(CODES, (N, T))
    tokens = dist.log_prob(action)
    found, _ = remoteness_and_score(dist, action, tokens.sum(-1), torch.Size([N]))
    expected = sequence_remoteness(tokens, seen if position_level else None)
    torch.testing.assert_close(found, expected)


def test_a_policy_that_says_it_itself_is_believed():
    class Ring(Normal):
        def remoteness(self, action: Tensor) -> Tensor:
            return (action.norm(dim=-1) - 1).abs()

    dist, action = Ring(torch.zeros(N, 2), torch.ones(N, 2)), torch.randn(N, 2)
    log_prob = dist.log_prob(action).sum(-1)
    distance, _ = remoteness_and_score(dist, action, log_prob, torch.Size([N]))
    torch.testing.assert_close(distance, (action.norm(dim=-1) - 1).abs())


@pytest.mark.parametrize(
    "dist",
    [Delta(torch.zeros(N, 2)), TanhDelta(torch.zeros(N, 2)), Beta(torch.ones(N, 2), torch.ones(2))],
)
def test_what_has_no_remoteness_is_refused_where_a_taper_reads_it(dist: Distribution):
    given = dist, torch.full((N, 2), 0.5), torch.randn(N), torch.Size([N])
    with pytest.raises(ValueError, match="has no remoteness that a taper could read"):
        remoteness_and_score(*given)
    assert all(found.isnan().all() for found in remoteness_and_score(*given, needed=False))


@pytest.mark.parametrize("masked", [False, True])
def test_token_sequences_take_the_mean_over_their_tokens(masked: bool):
    mask = torch.arange(T) < torch.randint(1, T + 1, (N, 1)) if masked else None
    dist, action = semantic(mask), torch.randint(CODES, (N, T))
    log_prob = dist.log_prob(action)
    distance, _ = remoteness_and_score(dist, action, log_prob, log_prob.shape)
    expected = sequence_remoteness(dist.token_log_prob(action), mask)
    torch.testing.assert_close(distance, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_trajectories_of_token_sequences_too(masked: bool):
    steps = torch.arange(4) < torch.randint(1, 5, (N, 1))
    mask = torch.rand(N, 4, T) < 0.7 if masked else None
    dist, action = semantic(mask, N, 4), torch.randint(CODES, (N, 4, T))
    log_prob = torch.where(steps, dist.log_prob(action), 0.0).sum(-1)
    distance, _ = remoteness_and_score(dist, action, log_prob, steps.shape, mask=steps)
    tokens = dist.token_log_prob(action).flatten(1)
    valid = steps.unsqueeze(-1).expand(N, 4, T) & (True if mask is None else mask)
    torch.testing.assert_close(distance, sequence_remoteness(tokens, valid.flatten(1)))


def test_a_tapered_loss_on_semantic_ids():
    net = nn.Sequential(nn.Linear(3, T * CODES), nn.Unflatten(-1, (T, CODES)))
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=drpo.SemanticIDCategorical,
    )
    data = TensorDict(
        {
            "observation": torch.randn(N, 3),
            "action": torch.randint(CODES, (N, T)),
            "next": {"reward": torch.randn(N)},
        },
        batch_size=[N],
    )
    taper = drpo.ExponentialTaper(threshold=1.0)
    out = drpo.RepulsiveLoss(actor, taper=taper)(data)
    logits = net(data["observation"])
    tokens = logits.log_softmax(-1).gather(-1, data["action"].unsqueeze(-1)).squeeze(-1)
    signed = data["next", "reward"] - data["next", "reward"].mean()
    factor = torch.exp(-(-tokens.mean(-1) - 1.0).clamp_min(0)).detach()
    weight = torch.where(signed < 0, factor * signed, signed)
    torch.testing.assert_close(out["loss_actor"], -(weight * tokens.sum(-1)).mean())


class TestSquashedGaussians:
    """TorchRL's standard continuous actor under a taper: sigmas are those before the tanh."""

    LOW, HIGH = 0.0, 10.0

    @pytest.fixture
    def actor(self) -> ProbabilisticActor:
        net = nn.Sequential(nn.Linear(3, 2 * 2), NormalParamExtractor())
        return ProbabilisticActor(
            TensorDictModule(net, ["observation"], ["loc", "scale"]),
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=TanhNormal,
            distribution_kwargs={"low": self.LOW, "high": self.HIGH},
        )

    def logged(self, actor: ProbabilisticActor, sigmas: float) -> TensorDict:
        """Actions so many sigmas away in each dimension, all of them below average but one."""
        data = TensorDict({"observation": torch.randn(N, 3)}, [N])
        with torch.no_grad():
            out = actor[0](data.copy())
        raw = (out["loc"] + sigmas * out["scale"]).double()
        action = self.LOW + (self.HIGH - self.LOW) * (raw.tanh() + 1) / 2
        data["action"] = action.float()
        return data.set("next", TensorDict({"reward": (torch.arange(N) == 0).float()}, [N]))

    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("sigmas", [0.0, 1.0])
    def test_a_taper_keeps_near_negatives(
        self, actor: ProbabilisticActor, sigmas: float, compiled: bool
    ):
        data = self.logged(actor, sigmas)
        loss = drpo.RepulsiveLoss(actor, taper=drpo.ExponentialTaper())
        if compiled:
            torch._dynamo.reset()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # dynamo's own
                out = torch.compile(loss, fullgraph=True, backend="eager")(data)
        else:
            out = loss(data)
        kept = math.exp(-2 * sigmas**2)  # two dimensions
        found = out["effective_negative_mass_ratio"] / out["negative_mass_ratio"]
        assert found.item() == pytest.approx(kept, rel=0.02)

    def test_drpos_negative_branch_reads_the_same(self, actor: ProbabilisticActor):
        data = self.logged(actor, 1.0)
        taper = drpo.ExponentialTaper()
        loss = drpo.DRPOLoss(actor, kappa=0.1, weighting="uniform", negative_taper=taper)
        out = loss(data)
        found = out["effective_negative_mass_ratio"] / out["negative_mass_ratio"]
        assert found.item() == pytest.approx(math.exp(-2), rel=0.02)

    def test_the_monitor_reads_the_same(self, actor: ProbabilisticActor):
        monitor = PhantomGradientMonitor(actor, taper=drpo.HardCutoff(threshold=2.5))
        found = monitor.probe(self.logged(actor, 1.0))
        assert found["negative_remoteness"].item() == pytest.approx(2.0, rel=0.02)
