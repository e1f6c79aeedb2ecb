"""What a cross-fitted bilinear reward says of a log: predictions, slopes, better actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchrl_drpo.functional.precision import at_least_float32
from torchrl_drpo.rewards.bilinear import BilinearReward, checked_rows, fit_bilinear_reward
from torchrl_drpo.rewards.folds import checked_folds


def cross_fit_bilinear(
    observation: Tensor,
    action: Tensor,
    reward: Tensor,
    *,
    folds: int = 5,
    fold: Tensor | None = None,
    landmarks: int = 96,
    seed: int = 0,
) -> tuple[list[BilinearReward], Tensor]:
    """One model a fold, each fitted to the rows of the other folds.

    Args:
        observation: states, ``[N, p]``.
        action: ``[N, d]``.
        reward: ``[N]``, finite.
        folds: at least 2, at most N / 2.
        fold: of every row, int64 ``[N]`` in ``[0, folds)``; drawn at random by default. Where rows
            of one user resemble each other, keep them together:
            ``assign_folds(N, folds, group=user)``.
        landmarks: of each model.
        seed: of the folds and of the models.

    Returns:
        The models, and the fold of every row, int64 ``[N]``: row i may be judged by model
        ``fold[i]``, which was fitted without it. All share the ridge that the first one chose on
        its own rows: one of ``RIDGES`` is all that a row of another fold can have told its model.

    Raises:
        ValueError: as :func:`fit_bilinear_reward`, for a number of folds out of range, and for
            folds of another shape or that leave a model fewer than two rows.

    Examples:
        >>> import torch
        >>> state, action = torch.randn(60, 2), torch.randn(60, 3)
        >>> models, fold = cross_fit_bilinear(state, action, torch.rand(60), folds=3)
        >>> len(models), fold.bincount()
        (3, tensor([20, 20, 20]))
    """
    observation, action, reward = checked_rows(observation, action, reward)
    if not 2 <= folds <= len(reward) // 2:
        raise ValueError(f"folds must lie in [2, {len(reward) // 2}], half the rows, got {folds}")
    if fold is None:
        order = torch.randperm(len(reward), generator=torch.Generator().manual_seed(seed))
        fold = order.argsort() % folds
    fold = checked_folds(fold, folds, len(reward)).to(reward.device)
    models: list[BilinearReward] = []
    ridge: float | None = None
    for number in range(folds):
        rows = fold != number
        part = observation[rows], action[rows], reward[rows]
        models.append(fit_bilinear_reward(*part, landmarks=landmarks, ridge=ridge, seed=seed))
        ridge = float(models[-1].ridge)
    return models, fold


@torch.no_grad()
def out_of_fold(
    models: Sequence[BilinearReward], fold: Tensor, observation: Tensor, action: Tensor
) -> tuple[Tensor, Tensor]:
    """What each row's own model says of it.

    Args:
        models: of :func:`cross_fit_bilinear`.
        fold: of every row, ``[N]``.
        observation: ``[N, p]``.
        action: ``[N, d]``.

    Returns:
        Predicted rewards ``[N]`` and slopes ``[N, d]``.

    Raises:
        ValueError: if a row's fold is not the number of a model.

    Examples:
        How much of the reward models explain that have not seen it:

        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> state, action = torch.randn(500, 3, generator=g), torch.randn(500, 3, generator=g)
        >>> reward = torch.cosine_similarity(state, action)
        >>> models, fold = cross_fit_bilinear(state, action, reward)
        >>> predicted, slope = out_of_fold(models, fold, state, action)
        >>> bool(1 - (predicted - reward).var() / reward.var() > 0.8)
        True
    """
    outside = (fold < 0) | (fold >= len(models))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"fold must lie in [0, {len(models)}), one model a fold, but row {row} holds "
            f"{int(fold[row])}; call a model itself for rows that none of them left out"
        )
    observation, action = at_least_float32(observation), at_least_float32(action)
    predicted, slope = action.new_empty(len(action)), torch.empty_like(action)
    for number, model in enumerate(models):
        rows = (fold == number).nonzero().squeeze(-1)
        predicted[rows], slope[rows] = model.judge(observation[rows], action[rows])
    return predicted, slope


def uphill_actions(
    action: Tensor, slope: Tensor, step: float = 0.3, *, typical: Tensor | float | None = None
) -> Tensor:
    r"""Moves logged actions up a reward model's slope: what they might better have been.

    .. math:: a_i' = a_i + \eta\, \|a\|_{rms}\, u_i / \overline{\|u\|}

    A policy that clones the good rows' :math:`a'` has the mean :math:`E_w[a] + \eta E_w[u]` (in
    those units): bounded, whatever the step. The same slope as a term of the loss beside
    :math:`\log\pi` is multiplied by :math:`\sigma^2` there, which it widens: with eta above .1 the
    policy ran away from the catalogue on the simulator.

    Args:
        action: logged actions, ``[N, d]``.
        slope: of the prediction, ``[N, d]``; long where the model is sure, short elsewhere.
        step: eta, in units of the actions' norm; .3 was best of .1 to 2 on the simulator, and
            .1 to .6 all better than none.
        typical: mean length of slopes, for rows that are a part of a log: the log's. By default
            that of these rows.

    Returns:
        ``[N, d]``.

    Raises:
        ValueError: for shapes that differ or a step that is negative or not finite.

    Examples:
        >>> import torch
        >>> uphill_actions(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.1]]), step=0.5)
        tensor([[2., 1.]])
    """
    if action.shape != slope.shape or action.ndim != 2:
        raise ValueError(
            "action and slope must have one shape [N, d], "
            f"got {tuple(action.shape)} and {tuple(slope.shape)}"
        )
    if not 0 <= step < float("inf"):
        raise ValueError(f"step must be a finite number of at least 0, got {step}")
    size = action.norm(dim=-1).square().mean().sqrt()
    typical = slope.norm(dim=-1).mean() if typical is None else torch.as_tensor(typical).to(slope)
    # Where the model is flat everywhere there is no way up: 0 / 1, not 0 / 0.
    typical = torch.where(typical > torch.finfo(slope.dtype).tiny, typical, 1.0)
    return action + step * size / typical * slope
