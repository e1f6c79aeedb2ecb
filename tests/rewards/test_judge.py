"""A row's prediction and slope come from one pass over its features."""

from __future__ import annotations

import torch

from torchrl_drpo.rewards import bilinear
from torchrl_drpo.rewards.bilinear import fit_bilinear_reward
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold


def make_rows(n: int = 90) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    state, action = torch.randn(n, 3, generator=g), torch.randn(n, 4, generator=g)
    return state, action, torch.cosine_similarity(state, action[:, :3])


def test_it_is_the_prediction_and_the_slope_that_autograd_finds() -> None:
    state, action, reward = make_rows()
    model = fit_bilinear_reward(state, action, reward, landmarks=20).double()
    direction = torch.nn.functional.normalize(action.double(), dim=-1).requires_grad_()
    predicted, slope = model.judge(state.double(), direction)
    assert torch.equal(predicted, model(state.double(), direction))
    assert torch.equal(slope, model.slope(state.double()))
    (gradient,) = torch.autograd.grad(predicted.sum(), direction)
    # Of the prediction along the sphere, on which the model's directions lie.
    tangent = slope - (slope * direction).sum(-1, keepdim=True) * direction
    torch.testing.assert_close(gradient, tangent)


def test_a_row_s_features_are_computed_once(monkeypatch) -> None:
    state, action, reward = make_rows()
    models, fold = cross_fit_bilinear(state, action, reward, folds=3, landmarks=10)
    rows, rbf = [], bilinear._rbf

    def counting(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return rbf(x, *rest)

    monkeypatch.setattr(bilinear, "_rbf", counting)
    predicted, slope = out_of_fold(models, fold, state, action)
    assert sum(rows) == len(state)
    for row in range(0, 90, 17):
        model = models[int(fold[row])]
        torch.testing.assert_close(predicted[row], model(state[row], action[row]))
        torch.testing.assert_close(slope[row], model.slope(state[row]))
