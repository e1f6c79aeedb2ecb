"""Cross-fitting: a reward model for every row of a log that has not seen the row.

A model that is asked about its own training rows praises what it memorised, and an objective that
follows it learns the noise of the log. Here every row is judged by a member trained on the other
folds (Chernozhukov et al. 2018, "Double/debiased machine learning", arXiv 1608.00060, sec. 3).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from torchrl_drpo.functional.checks import check_finite
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.rewards.explained import explained_variance
from torchrl_drpo.rewards.folds import assign_folds, whole_folds
from torchrl_drpo.rewards.rows import column_of, rewards_of

#: From training rows to a model of their reward.
Fit = Callable[[TensorDictBase], TensorDictModuleBase]

#: Rows predicted together.
_ROWS_AT_A_TIME = 8192


class CrossFittedReward(TensorDictModuleBase):
    """K reward models of one log, read as one that has never seen the row in question.

    Made by :meth:`fit`. A row with a ``fold`` is judged by the member that was trained without that
    fold; a row without one (``fold`` absent, or -1: a row that is new to all) by their mean.

    Args:
        members: K models that read the same entries and write the reward as their first out_key,
            ``[*B]`` or ``[*B, 1]``; member k was trained on all folds but k. To load a saved state,
            pass K models of the same make, and call ``.eval()``.
        fold_key: where a row's fold lies, int64 ``[*B]`` or ``[*B, 1]``.
        out_key: where the prediction goes, ``[*B]``.

    Attributes:
        scale: standard deviation of the out-of-fold predictions over the log, 0-d.
        explained_variance: 1 minus their squared error over the reward's variance, 0-d: how good
            the model is. At 0 or below it knows nothing, and following it is following noise.
        explained_variance_error: its standard error, 0-d; over the groups where the fit was given
            some, else over rows. NaN in states that were saved before there was one.

    Raises:
        ValueError: for fewer than two members, or members that read different entries.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_drpo import CrossFittedReward, DRPOLoss, make_gaussian_actor
        >>> from torchrl_drpo.rewards import RewardRegression
        >>> class Match(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.taste = torch.nn.Linear(3, 2)
        ...
        ...     def forward(self, state, action):
        ...         return (self.taste(state) * action).sum(-1)
        >>> g = torch.Generator().manual_seed(0)
        >>> state, action = torch.randn(400, 3, generator=g), torch.randn(400, 2, generator=g)
        >>> rows = TensorDict(
        ...     {
        ...         "observation": state,
        ...         "action": action,
        ...         "next": {"reward": (state[:, :2] * action).sum(-1, keepdim=True)},
        ...     },
        ...     batch_size=[400],
        ... )
        >>> network = lambda: TensorDictModule(Match(), ["observation", "action"], ["value"])
        >>> fit = RewardRegression(network, learning_rate=0.05, steps=100, batch_size=128)
        >>> model = CrossFittedReward.fit(rows, fit)
        >>> bool(model.explained_variance > 0.9), rows["predicted_reward"].shape
        (True, torch.Size([400]))

        DRPO on the predictions in place of the noisy rewards:

        >>> loss = DRPOLoss(make_gaussian_actor(state_dim=3, action_dim=2))
        >>> loss.set_keys(quality="predicted_reward")
        >>> loss(rows[:64])["loss_actor"].backward()
    """

    scale: Tensor
    explained_variance: Tensor
    explained_variance_error: Tensor
    optional_in_keys: ClassVar[list[NestedKey]]

    def __init__(
        self,
        members: Sequence[TensorDictModuleBase],
        *,
        fold_key: NestedKey = "fold",
        out_key: NestedKey = "predicted_reward",
    ) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"cross-fitting needs at least 2 members, got {len(members)}")
        keys = [[unravel_key(key) for key in member.in_keys] for member in members]
        if any(each != keys[0] for each in keys):
            raise ValueError(f"members must read the same entries, got {keys}")
        self.members = nn.ModuleList(members)
        self.in_keys, self.out_keys = keys[0], [out_key]
        self.optional_in_keys = [fold_key]
        self.fold_key, self.out_key = fold_key, out_key
        like = next((t for t in (*self.parameters(), *self.buffers())), torch.zeros(()))
        self.register_buffer("scale", torch.ones((), device=like.device))
        self.register_buffer("explained_variance", torch.zeros((), device=like.device))
        unknown = torch.full((), torch.nan, device=like.device)
        self.register_buffer("explained_variance_error", unknown)

    @classmethod
    def fit(
        cls,
        rows: TensorDictBase,
        fit: Fit,
        *,
        folds: int = 5,
        group_key: NestedKey | None = None,
        reward_key: NestedKey = ("next", "reward"),
        fold_key: NestedKey = "fold",
        out_key: NestedKey = "predicted_reward",
        seed: int = 0,
    ) -> CrossFittedReward:
        """Fits one member a fold and judges every row by the one that has not seen it.

        Members are fitted one after the other and not under ``vmap``: any model will do then
        (dropout, batch norm, a closed form), and each stops when its own rows say so.

        Args:
            rows: the log, batch size ``[N]``. It gains ``fold`` (unless it has one) and the
                out-of-fold ``predicted_reward``.
            fit: from rows to a model: a :class:`~torchrl_drpo.rewards.RewardRegression`, or a
                function that solves for one.
            folds: K, at least 2; each member learns from ``(K - 1) / K`` of the rows.
            group_key: entry whose rows stay together, such as the user's id: then no row is judged
                by a model that saw the same user. Where rows have their fold, it is what rows that
                resemble each other share, for the standard error alone.
            reward_key: what is predicted.
            fold_key: see the class.
            out_key: see the class.
            seed: of the folds.

        Raises:
            KeyError: for a missing entry.
            ValueError: for non-finite rewards, too few rows or groups, or an empty fold.
        """
        reward = rewards_of(rows, reward_key)
        check_finite(f"reward {reward_key!r}", reward, hint="drop or repair these rows")
        group = None if group_key is None else column_of(rows, group_key, "group ids")
        fold = rows.get(fold_key, None)
        if fold is None:
            fold = assign_folds(len(reward), folds, group=group, seed=seed).to(reward.device)
            rows.set(fold_key, fold)
        fold = whole_folds(fold.reshape(-1), fold_key, folds)
        members = [fit(rows[fold != k]) for k in range(folds)]
        model = cls(members, fold_key=fold_key, out_key=out_key).requires_grad_(False).eval()
        predicted = model.annotate(rows)[out_key].to(reward.dtype)
        std = predicted.std()
        model.scale.copy_(torch.where(std > 0, std, 1.0))  # a constant has no scale
        explained = explained_variance(predicted, reward, group)
        model.explained_variance.copy_(explained.share)
        model.explained_variance_error.copy_(explained.error)
        if explained.doubtful:
            nothing = "nothing" if not explained.share > 0 else "next to nothing"
            warnings.warn(
                f"the reward model explains {nothing} of the rewards that it has not seen "
                f"(explained_variance {explained.share.item():.3f}, standard error "
                f"{explained.error.item():.3f} over {'rows' if group is None else 'groups'}); do "
                "not follow it: regularise it more, or fit more rows",
                stacklevel=2,
            )
        return model

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes states that were saved before there was a standard error."""
        state.setdefault(f"{prefix}explained_variance_error", torch.full((), torch.nan))
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the predicted reward, ``[*B]``, into the tensordict and returns it."""
        inputs = tensordict.select(*self.in_keys)
        values = torch.stack([self._value_of(member, inputs) for member in self.members])
        mean = values.mean(0)
        fold = tensordict.get(self.fold_key, None)
        if fold is not None:
            fold = self._checked(fold.reshape(mean.shape))
            unseen = values.gather(0, fold.clamp_min(0).unsqueeze(0)).squeeze(0)
            mean = torch.where(fold >= 0, unseen, mean)
        return tensordict.set(self.out_key, mean)

    def out_of_fold(self, tensordict: TensorDictBase) -> Tensor:
        """Predictions for rows of the log, ``[*B]``, without gradient; each row needs its fold.

        Raises:
            KeyError: if there is no fold.
            ValueError: if a row belongs to none.
        """
        fold = tensordict.get(self.fold_key, None)
        if fold is None:
            raise KeyError(
                f"out-of-fold predictions need {self.fold_key!r}, which the rows do not have (they "
                f"have {sorted(map(str, tensordict.keys(True, True)))}); CrossFittedReward.fit "
                "writes it"
            )
        if (fold < 0).any():
            raise ValueError(f"{int((fold < 0).sum())} rows have no fold; call the model itself")
        keys = (*self.in_keys, self.fold_key)
        with torch.no_grad():
            return self(tensordict.select(*keys))[self.out_key]

    @torch.no_grad()
    def annotate(self, rows: TensorDictBase) -> TensorDictBase:
        """Writes the predicted reward into rows of any number, in blocks, and returns them."""
        keys = (*self.in_keys, self.fold_key)
        blocks = rows.select(*keys, strict=False).split(_ROWS_AT_A_TIME)
        return rows.set(self.out_key, torch.cat([self(block)[self.out_key] for block in blocks]))

    def _value_of(self, member: TensorDictModuleBase, inputs: TensorDictBase) -> Tensor:
        value = member(inputs.copy()).get(member.out_keys[0])
        if value.shape == (*inputs.shape, 1):
            value = value.squeeze(-1)
        if value.shape != inputs.shape:
            raise ValueError(
                f"a member must predict one number a row, {tuple(inputs.shape)}, got "
                f"{tuple(value.shape)}"
            )
        return value

    def _checked(self, fold: Tensor) -> Tensor:
        if reads_are_free(fold) and fold.numel() and fold.max() >= len(self.members):
            raise ValueError(
                f"fold must lie in [0, {len(self.members)}), or be -1 for rows that no member saw, "
                f"got {int(fold.max())}"
            )
        return fold.long()
