"""Cross-fitting of the bilinear model, and the actions that it would rather have seen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.rewards.test_bilinear import M, N, make_rows
from torchrl_drpo.rewards import bilinear
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions

# -- cross-fitting ------------------------------------------------------------------------------


def test_no_row_moves_its_own_prediction(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bilinear, "RIDGES", (3.0,))  # the one number that folds share
    state, action, reward = make_rows()

    def judged(reward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        models, fold = cross_fit_bilinear(state, action, reward, folds=4, landmarks=M)
        return *out_of_fold(models, fold, state, action), fold

    predicted, slope, fold = judged(reward)
    for row in (0, 1, 2, 3):
        changed = reward.clone()
        changed[row] += 100.0
        moved, moved_slope, same = judged(changed)
        assert torch.equal(same, fold)
        mine = fold == fold[row]
        assert torch.equal(moved[mine], predicted[mine])  # nor does any row of its fold
        assert torch.equal(moved_slope[mine], slope[mine])
        assert (moved[~mine] != predicted[~mine]).all()


def test_every_row_is_judged_by_the_model_of_its_own_fold():
    state, action, reward = make_rows()
    models, fold = cross_fit_bilinear(state, action, reward, folds=3, landmarks=M, seed=5)
    assert sorted(fold.bincount().tolist()) == [26, 27, 27]
    predicted, slope = out_of_fold(models, fold, state, action)
    for row in range(N):
        model = models[fold[row]]
        torch.testing.assert_close(predicted[row], model(state[row], action[row]))
        torch.testing.assert_close(slope[row], model.slope(state[row]))
        others = state[fold != fold[row]]
        assert all((z == others).all(-1).any() for z in model.landmarks)
    assert len({float(model.ridge) for model in models}) == 1
    again = cross_fit_bilinear(state, action, reward, folds=3, landmarks=M, seed=5)
    assert torch.equal(again[0][1].weight, models[1].weight)
    assert not torch.equal(cross_fit_bilinear(state, action, reward, folds=3, seed=6)[1], fold)


def test_rows_of_no_fold_are_refused():
    state, action, reward = make_rows(20)
    models, fold = cross_fit_bilinear(state, action, reward, folds=2)
    for bad in (-1, 2):
        fold[7] = bad
        with pytest.raises(ValueError, match=rf"\[0, 2\).* row 7 holds {bad}"):
            out_of_fold(models, fold, state, action)


# -- uphill -------------------------------------------------------------------------------------


def test_uphill_actions_are_the_formula():
    g = torch.Generator().manual_seed(2)
    action = torch.randn(6, 4, generator=g, dtype=torch.float64)
    slope = torch.randn(6, 4, generator=g, dtype=torch.float64)
    rms = math.sqrt(sum(sum(v * v for v in row) for row in action.tolist()) / 6)
    length = sum(math.hypot(*row) for row in slope.tolist()) / 6
    expected = [
        [a + 0.3 * rms * u / length for a, u in zip(one, up, strict=True)]
        for one, up in zip(action.tolist(), slope.tolist(), strict=True)
    ]
    found = uphill_actions(action, slope)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(uphill_actions(action, 1e3 * slope), found)  # a direction only
    assert torch.equal(uphill_actions(action, slope, step=0.0), action)


def test_a_model_that_is_flat_everywhere_moves_nothing():
    action = 100 * torch.ones(3, 2)
    assert torch.equal(uphill_actions(action, torch.zeros(3, 2), step=1.0), action)


def test_bad_folds_and_steps_are_named():
    state, action, reward = make_rows(9)
    for folds in (1, 5):
        with pytest.raises(ValueError, match=rf"\[2, 4\], half the rows, got {folds}"):
            cross_fit_bilinear(state, action, reward, folds=folds)
    with pytest.raises(ValueError, match=r"one shape .* got \(9, 2\) and \(9, 3\)"):
        uphill_actions(action, torch.ones(9, 3))
    for step in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"at least 0, got {step}"):
            uphill_actions(action, action, step=step)


def test_folds_of_one_s_own_are_followed():
    state, action, reward = make_rows()
    fold = torch.arange(N) // 7 % 3
    models, same = cross_fit_bilinear(state, action, reward, folds=3, fold=fold, landmarks=M)
    assert torch.equal(same, fold)
    for number, model in enumerate(models):
        others = state[fold != number]
        assert all((z == others).all(-1).any() for z in model.landmarks)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        (torch.zeros(N - 1, dtype=torch.long), rf"shape \[{N}\], got torch.int64 \({N - 1},\)"),
        (torch.zeros(N), "one integer a row"),
        (torch.full((N,), 3), r"lie in \[0, 3\) but row 0 holds 3"),
        (torch.zeros(N, dtype=torch.long), f"one fold holds {N} of {N} rows"),
    ],
)
def test_folds_that_leave_a_model_nothing_are_refused(fold: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        cross_fit_bilinear(*make_rows(), folds=3, fold=fold)


def test_a_part_of_a_log_moves_as_the_whole_does():
    _, action, _ = make_rows()
    slope = torch.randn(action.shape, generator=torch.Generator().manual_seed(2))
    action = torch.nn.functional.normalize(action, dim=-1)  # one norm, hence one size
    whole = uphill_actions(action, slope, 0.4)
    typical = slope.norm(dim=-1).mean()
    part = uphill_actions(action[3:9], slope[3:9], 0.4, typical=typical)
    torch.testing.assert_close(part, whole[3:9])
    assert not torch.allclose(uphill_actions(action[3:9], slope[3:9], 0.4), whole[3:9])
