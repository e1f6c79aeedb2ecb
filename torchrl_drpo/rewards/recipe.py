"""The recipe beyond DRPO for policies over embeddings, as one call on a log."""

from __future__ import annotations

import warnings

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.rewards.explained import explained_variance
from torchrl_drpo.rewards.folds import assign_folds
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions


def uphill_log(
    rows: TensorDictBase,
    *,
    step: float = 0.3,
    folds: int = 5,
    landmarks: int = 96,
    seed: int = 0,
    observation_key: NestedKey = "observation",
    action_key: NestedKey = "action",
    reward_key: NestedKey = ("next", "reward"),
    group_key: NestedKey | None = None,
) -> TensorDictBase:
    """A log whose actions were moved to where a cross-fitted reward model finds better ones.

    The recipe is *uphill positive-only*: train
    ``RepulsiveLoss(actor, negative_scale=0)`` on the log that comes back. The rows' own rewards
    still say which rows are good; those below average, which that loss leaves out, have taught the
    model where up is. Each row is moved by a model that was fitted without it: no row climbs the
    noise of its own reward. ``drpo reproduce beyond`` holds it against DRPO and the baselines.

    Use it where actions are vectors in which near means alike (item embeddings), a Gaussian policy
    is trained on thousands to millions of noisy rows, and the policy's mean is looked up among real
    items afterwards. A moved action is an item of no catalogue: it is something to imitate. From a
    log of item numbers, ``drpo train --policy embedding --objectives uphill`` does all of it.

    Args:
        rows: the log, batch size ``[N]``, such as ``buffer[:]`` of a
            :class:`~torchrl_drpo.RecReplayBuffer`. It is left as it was.
        step: how far actions move, in units of their norm; see
            :func:`~torchrl_drpo.rewards.uphill_actions`. 0 moves nothing.
        folds: of the cross-fitting, in [2, N / 2].
        landmarks: of each model; more follow finer detail of the state, and cost time.
        seed: of the folds and of the models.
        observation_key: the state, one vector a row, ``[N, p]``.
        action_key: the logged action, ``[N, d]``.
        reward_key: ``[N]`` or ``[N, 1]``.
        group_key: ids such as the user's, ``[N]``: all rows of one lie in one fold, where rows of
            a user resemble each other. By default every row is alone.

    Returns:
        The log with the moved ``action``; besides, ``logged_action``, the out-of-fold
        ``predicted_reward`` ``[N]`` (a denoised quality or reward for any objective:
        ``loss.set_keys(reward="predicted_reward")``) and each row's ``fold``.

    Raises:
        KeyError: for a missing entry.
        ValueError: for entries of another shape (item numbers among them), rows that are not
            finite, or numbers out of range.

    Warns:
        UserWarning: where the models explain less of the rewards that they have not seen than twice
            the standard error of that number (over rows, or over the groups that are given).
            ``drpo reproduce beyond`` shows what the recipe is worth on such logs.

    Examples:
        >>> import torch
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from torchrl_drpo import RecSimEnv, RepulsiveLoss, make_gaussian_actor
        >>> env = RecSimEnv(seed=0)
        >>> log = env.simulate_log(1_000, "extreme", seed=1, propensity=False)
        >>> moved = uphill_log(log)

        The simulator knows what users want and hides it from the models. On a log that is nine
        tenths random, actions now point there three times as much:

        >>> wanted = env.world.interest(log["observation"])
        >>> def agreement(action):
        ...     return torch.cosine_similarity(action, wanted).mean().item()
        >>> round(agreement(log["action"]), 2), round(agreement(moved["action"]), 2)
        (0.05, 0.15)

        Training is that of any log:

        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=320)
        >>> _ = buffer.extend(moved)
        >>> actor = make_gaussian_actor(env.setting.state_dim, env.setting.action_dim)
        >>> loss = RepulsiveLoss(actor, negative_scale=0.0)  # positive-only
        >>> loss(buffer.sample())["loss_actor"].backward()
    """
    if rows.ndim != 1:
        raise ValueError(f"expected flat rows, batch size [N], got {tuple(rows.shape)}")
    observation = _vectors(rows, observation_key)
    action = _vectors(rows, action_key)
    reward = _entry(rows, reward_key)
    if reward.shape == (*rows.shape, 1):
        reward = reward.squeeze(-1)
    fold = group = None
    if group_key is not None:
        group = _entry(rows, group_key)
        fold = assign_folds(len(rows), folds, group=group, seed=seed)
    models, fold = cross_fit_bilinear(
        observation, action, reward, folds=folds, fold=fold, landmarks=landmarks, seed=seed
    )
    predicted, slope = out_of_fold(models, fold, observation, action)
    _warn_if_doubtful(predicted, reward, group)
    out = rows.copy()
    out.set("logged_action", action)
    out.set(action_key, uphill_actions(action, slope, step))
    out.set("predicted_reward", predicted)
    return out.set("fold", fold)


def _warn_if_doubtful(predicted: Tensor, reward: Tensor, group: Tensor | None) -> None:
    found = explained_variance(predicted, reward, group)
    if found.doubtful:
        warnings.warn(
            f"the reward model explains {found.share.item():.2%} of the variance of the rewards "
            f"that it has not seen, with a standard error of {found.error.item():.2%} over "
            f"{'rows' if group is None else 'groups'}: less than twice that above zero, so "
            "following it may be following noise; fit more rows, or train on the log as it is "
            "(positive-only)",
            stacklevel=3,
        )


def _vectors(rows: TensorDictBase, key: NestedKey) -> Tensor:
    values = _entry(rows, key)
    if not values.is_floating_point() or values.ndim != 2:
        raise ValueError(
            f"{key!r} must be one floating vector a row, [N, d], got {values.dtype} "
            f"{tuple(values.shape)}; item numbers have no direction to move in: give their "
            "embeddings, or let drpo train --policy embedding look them up"
        )
    return values


def _entry(rows: TensorDictBase, key: NestedKey) -> Tensor:
    values = rows.get(key, None)
    if not isinstance(values, Tensor):
        found = sorted(map(str, rows.keys(True, True)))
        raise KeyError(f"no tensor at {key!r}; the rows have {found}")
    return values.detach()
