from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_drpo.policies.gaussian import DiagonalNormal, make_gaussian_actor


def states(n: int = 5, dim: int = 4) -> TensorDict:
    return TensorDict({"observation": torch.randn(n, dim)}, [n])


def test_the_papers_network_has_two_linear_layers_and_one_log_std_vector():
    actor = make_gaussian_actor(10, 128)
    shapes = sorted(tuple(p.shape) for p in actor.parameters())
    assert shapes == [(128,), (128,), (128,), (128, 10), (128, 128)]


def test_a_forward_writes_the_promised_entries():
    td = make_gaussian_actor(4, 3)(states())
    assert {k: tuple(td[k].shape) for k in ("loc", "scale", "action")} == {
        "loc": (5, 3),
        "scale": (5, 3),
        "action": (5, 3),
    }


def test_keys_and_batch_dimensions_are_the_callers():
    actor = make_gaussian_actor(
        4, 3, hidden=(), in_key=("user", "state"), action_key="embedding", return_log_prob=True
    )
    td = actor(TensorDict({"user": {"state": torch.randn(2, 6, 4)}}, [2, 6]))
    torch.testing.assert_close(
        td["embedding_log_prob"], actor.get_dist(td).log_prob(td["embedding"])
    )
    assert td["embedding"].shape == (2, 6, 3)
    assert td["embedding_log_prob"].shape == (2, 6)


def test_log_prob_is_the_multivariate_normal_density():
    loc, scale, value = torch.randn(6, 5), torch.rand(6, 5) + 0.1, torch.randn(6, 5) * 3
    expected = [
        stats.multivariate_normal(m, np.diag(s**2)).logpdf(x)
        for m, s, x in zip(loc.numpy(), scale.numpy(), value.numpy(), strict=True)
    ]
    log_prob = DiagonalNormal(loc, scale).log_prob(value)
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=2e-6)


def scales(kind: str, sigma: torch.Tensor) -> torch.Tensor:
    """The same sigma ``[d]`` (or its first entry), in the shapes that a head may give it."""
    shaped = {
        "row": sigma,
        "one row": sigma.unsqueeze(0),
        "expanded": sigma.expand(6, -1),
        "full": sigma.repeat(6, 1),
        "one number": sigma[0],
        "a number a row": sigma[:1].expand(6, 1),
    }
    return shaped[kind]


@pytest.mark.parametrize(
    "kind", ["row", "one row", "expanded", "full", "one number", "a number a row"]
)
def test_every_shape_of_sigma_gives_the_density_and_gradients_of_torch(kind):
    generator = torch.Generator().manual_seed(0)
    loc, value = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    sigma = torch.rand(5, generator=generator, dtype=torch.float64) + 0.2

    def ours(loc, sigma, value):
        return DiagonalNormal(loc, scales(kind, sigma)).log_prob(value)

    def torchs(loc, sigma, value):
        scale = scales(kind, sigma).expand_as(loc)
        return torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1).log_prob(
            value
        )

    inputs = [tensor.requires_grad_() for tensor in (loc, sigma, value)]
    found, want = ours(*inputs), torchs(*inputs)
    torch.testing.assert_close(found, want)
    cotangent = torch.randn(6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, cotangent), torch.autograd.grad(want, inputs, cotangent)
    )
    assert torch.autograd.gradgradcheck(ours, inputs)
    distance = DiagonalNormal(loc, scales(kind, sigma)).squared_distance(found)
    z = (value - loc) / scales(kind, sigma).expand_as(loc)
    torch.testing.assert_close(distance, z.square().sum(-1))


def test_a_row_of_sigma_is_a_whole_distribution():
    loc, sigma = torch.randn(4, 3), torch.tensor([0.5, 1.0, 2.0])
    dist, want = DiagonalNormal(loc, sigma), DiagonalNormal(loc, sigma.repeat(4, 1))
    for name in ("loc", "scale", "mean", "mode", "variance", "deterministic_sample"):
        assert torch.equal(getattr(dist, name), getattr(want, name)), name
    assert torch.equal(dist.entropy(), want.entropy())
    torch.manual_seed(0)
    drawn = dist.rsample((7,))
    torch.manual_seed(0)
    assert torch.equal(drawn, want.rsample((7,)))
    torch.testing.assert_close(dist.log_prob(drawn), want.log_prob(drawn))
    dist.update(loc + 1, 2 * sigma)
    assert torch.equal(dist.base_dist.loc, loc + 1)
    assert torch.equal(dist.scale, (2 * sigma).repeat(4, 1))


def test_a_mean_without_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"loc must have shape \[\*B, d\]"):
        DiagonalNormal(torch.tensor(0.0), torch.tensor(1.0))


def test_scores_of_the_parameters_are_the_closed_form():
    # d log pi / d mu = z / sigma and d log pi / d log sigma = z^2 - 1, entry by entry.
    actor = make_gaussian_actor(4, 3, hidden=(), log_std_init=0.4, dtype=torch.float64)
    td = states(1).to(torch.float64)
    action = torch.randn(1, 3, dtype=torch.float64)
    actor.get_dist(td).log_prob(action).sum().backward()
    parameters = dict(actor.named_parameters())
    bias_grad = next(p.grad for name, p in parameters.items() if name.endswith("mean.0.bias"))
    std_grad = next(p.grad for name, p in parameters.items() if name.endswith("log_std"))
    z = ((action - actor(td)["loc"]) / np.exp(0.4))[0].detach()
    torch.testing.assert_close(bias_grad, z / np.exp(0.4))
    torch.testing.assert_close(std_grad, z.square() - 1)


def test_low_precision_sums_in_float32():
    loc = torch.zeros(2, 4096, dtype=torch.bfloat16)
    log_prob = DiagonalNormal(loc, torch.ones_like(loc)).log_prob(loc)
    exact = -0.5 * 4096 * np.log(2 * np.pi)
    assert log_prob.dtype == torch.float32
    assert log_prob[0].item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("raw", "expected"), [(-9.0, -5.0), (0.5, 0.5), (7.0, 2.0)])
def test_log_std_is_clamped_and_does_not_depend_on_the_state(raw, expected):
    actor = make_gaussian_actor(4, 3)
    for name, parameter in actor.named_parameters():
        if name.endswith("log_std"):
            parameter.data.fill_(raw)
    scale = actor(states())["scale"]
    torch.testing.assert_close(scale, torch.full((5, 3), float(np.exp(expected))))


def test_exploration_modes_sample_or_return_the_mean():
    actor = make_gaussian_actor(4, 3)
    td = states(2000)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(actor(td.clone())["action"], actor(td.clone())["loc"])
    drawn = actor(td.clone())
    z = ((drawn["action"] - drawn["loc"]) / drawn["scale"]).detach()
    assert z.mean().abs() < 5 / np.sqrt(z.numel())
    assert z.std().item() == pytest.approx(1.0, abs=0.05)


def test_nothing_is_validated_on_the_hot_path():
    dist = make_gaussian_actor(4, 3).get_dist(states())
    assert not dist._validate_args
    assert not dist.base_dist._validate_args


def test_copies_state_dicts_and_functional_parameters_agree():
    actor, td = make_gaussian_actor(4, 3), states()
    action = torch.randn(5, 3)
    expected = actor.get_dist(td).log_prob(action)
    twin = make_gaussian_actor(4, 3)
    twin.load_state_dict(actor.state_dict())
    for other in (twin, copy.deepcopy(actor)):
        torch.testing.assert_close(other.get_dist(td).log_prob(action), expected)
    parameters = TensorDict.from_module(actor).detach().clone()
    with parameters.to_module(twin):
        torch.testing.assert_close(twin.get_dist(td).log_prob(action), expected)


def test_vmap_over_an_ensemble_of_parameters():
    actors, td, action = [make_gaussian_actor(4, 3) for _ in range(3)], states(), torch.randn(5, 3)
    stacked = TensorDict.from_modules(*actors, as_module=False)

    def log_prob(parameters: TensorDict) -> torch.Tensor:
        with parameters.to_module(actors[0]):
            return actors[0].get_dist(td).log_prob(action)

    together = torch.vmap(log_prob, (0,))(stacked)
    alone = torch.stack([actor.get_dist(td).log_prob(action) for actor in actors])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state_dim": 0}, "state_dim must be"),
        ({"action_dim": -1}, "action_dim must be"),
        ({"hidden": (128, 0)}, r"hidden\[1\] must be"),
        (
            {"log_std_init": 3.0},
            r"within log_std_bounds \[-5.0, 2.0\], got 3",
        ),
        ({"log_std_bounds": (1.0, -1.0)}, "log_std_init must lie within"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_gaussian_actor(**({"state_dim": 4, "action_dim": 3} | arguments))
