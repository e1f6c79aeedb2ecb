"""Logged sessions: steps that follow each other, of unequal number, some cut by the log's end."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.padded import padded_column, prefix_mask
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows
from torchrl_drpo.evaluation.off_policy.sequences.assemble import assemble

_BY_STEP = ("reward", "log_target", "log_behavior", "prediction", "value")
_BY_SESSION = ("truncated", "final_value", "cluster")


@dataclass(frozen=True)
class LoggedSessions:
    r"""S sessions of up to T steps under a policy to be evaluated; by step, float64 ``[S, T]``.

    What is estimated is :math:`E \sum_{t < L} \gamma^t r_t` over the steps of a session that the
    policy acts in. A session may end before T; its padding may hold anything. Where the *log* ended
    first (``truncated``), the rewards to come are unknown: ``final_value`` stands for them, and
    without one they count as nothing and every estimator warns.

    Flat rows of a :class:`~torchrl_drpo.RecReplayBuffer`, with ``trajectory_id``, ``step`` and
    ``("next", "terminated")``, are put together by :meth:`from_rows`.

    Attributes:
        reward: r_t.
        log_target: :math:`\log \pi_e(a_t|s_t)`; ``-inf`` where the policy would never act so.
        log_behavior: :math:`\log \pi_b(a_t|s_t)`, the logged propensity.
        mask: True for the steps of a session, from its first on; all by default.
        prediction: :math:`\hat q(s_t, a_t)`, discounted rewards from step t on under the policy.
        value: :math:`\hat V(s_t) = \sum_a \pi_e(a|s_t) \hat q(s_t, a)`.
        truncated: True where the log ended before the session did, bool ``[S]``; none by default.
        final_value: :math:`\hat V` of the state after a truncated session's last step, ``[S]``; not
            read elsewhere.
        cluster: ids of what varies as a whole (users), int64 ``[S]``; ``None`` where sessions are
            independent.
        gamma: discount in [0, 1].
        density: whether the logarithms are of densities (actions that are vectors).

    Raises:
        ValueError: for shapes that differ, values that are not finite, a session without steps or
            with a gap.

    Example:
        >>> half = torch.full((2, 3), 0.5).log()
        >>> sessions = LoggedSessions(
        ...     reward=torch.ones(2, 3),
        ...     log_target=half,
        ...     log_behavior=half,
        ...     mask=torch.tensor([[True, True, True], [True, False, False]]),
        ... )
        >>> sessions.lengths, sessions.returns()
        (tensor([3, 1]), tensor([3., 1.], dtype=torch.float64))
    """

    reward: Tensor
    log_target: Tensor
    log_behavior: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # all True then
    prediction: Tensor | None = None
    value: Tensor | None = None
    truncated: Tensor | None = None
    final_value: Tensor | None = None
    cluster: Tensor | None = None
    gamma: float = 1.0
    density: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {self.gamma}")
        shape = tuple(self.reward.shape[:2])
        if len(shape) < 2 or 0 in shape:
            raise ValueError(
                f"sessions need rewards [S, T], got shape {tuple(self.reward.shape)}; flat rows "
                "are put together by LoggedSessions.from_rows"
            )
        mask = prefix_mask(self.mask, (shape[0], shape[1]), "session", "step")
        object.__setattr__(self, "mask", mask)
        for name in _BY_STEP:
            given = getattr(self, name)
            if given is not None:
                column = padded_column(name, given, mask, "session", "step", density=self.density)
                object.__setattr__(self, name, column)
        for name in _BY_SESSION:
            self._set_by_session(name, getattr(self, name))

    def _set_by_session(self, name: str, given: Tensor | None) -> None:
        if given is None:
            return
        if given.numel() != len(self):
            raise ValueError(f"{name} has {given.numel()} entries for {len(self)} sessions")
        flat = given.detach().reshape(-1).cpu()
        if name == "final_value":
            if self.truncated is None:
                raise ValueError("final_value is for truncated sessions: say which, by `truncated`")
            flat = padded_column(name, flat, self.truncated, "session", "step")
        elif name == "cluster":
            flat = flat.unique(return_inverse=True)[1]
        else:
            flat = flat.bool()
        object.__setattr__(self, name, flat)

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def from_rows(
        cls,
        rows: LoggedRows,
        session: Tensor,
        *,
        step: Tensor | None = None,
        terminated: Tensor | None = None,
        next_value: Tensor | None = None,
        gamma: float = 1.0,
        steps: int | None = None,
    ) -> LoggedSessions:
        """Sessions of flat rows, in the order of their ids.

        Args:
            rows: N rows; their prediction and value, where given, are of the steps to come as well,
                and their clusters are wider than a session.
            session: id of each row's session, such as ``trajectory_id``, integers ``[N]``.
            step: its place in the session, 0, 1, ...; the order of the rows by default.
            terminated: whether the session ended with the row, bool ``[N]``; a session without such
                a row is truncated. By default every session has ended.
            next_value: V^ of the state that follows each row, ``[N]``, read for the last rows of
                truncated sessions.
            gamma: discount.
            steps: keep so many steps of each session at most, as :meth:`first` does.

        Raises:
            ValueError: for a step that is missing or there twice, rows after an end, or a session
                that lies in two clusters.

        Example:
            >>> half = torch.full((3,), 0.5).log()
            >>> rows = LoggedRows(torch.tensor([1.0, 2.0, 3.0]), half, half)
            >>> LoggedSessions.from_rows(rows, torch.tensor([7, 4, 7])).reward
            tensor([[2., 0.],
                    [1., 3.]], dtype=torch.float64)
        """
        columns: dict[str, Any] = assemble(rows, session, step, terminated, next_value, steps)
        return cls(**columns, gamma=gamma, density=rows.density)

    @property
    def lengths(self) -> Tensor:
        """Steps of each session, int64 ``[S]``."""
        return self.mask.sum(-1)

    @property
    def log_weights(self) -> Tensor:
        r"""Logarithms of :math:`w_{0:t} = \prod_{u \le t} \pi_e / \pi_b`, ``[S, T]``.

        After a session's last step they stay what they were there.
        """
        return (self.log_target - self.log_behavior).cumsum(-1)

    @property
    def discounts(self) -> Tensor:
        """Powers of gamma, 1 first, ``[T]``."""
        return self.gamma ** torch.arange(self.reward.shape[1], dtype=torch.float64)

    def earned(self) -> Tensor:
        """Rewards, a truncated session's last with the discounted ``final_value``, ``[S, T]``."""
        if self.truncated is None or not self.truncated.any():
            return self.reward
        if self.final_value is None:
            warnings.warn(
                f"{int(self.truncated.sum())} of {len(self)} sessions are truncated, and what they "
                "would have earned later counts as nothing; give final_value, or compare policies "
                "over the first steps alone: sessions.first(steps)",
                stacklevel=3,
            )
            return self.reward
        last = (self.lengths - 1).unsqueeze(-1)
        return self.reward.scatter_add(-1, last, (self.gamma * self.final_value).unsqueeze(-1))

    def returns(self) -> Tensor:
        """Discounted sum of each session's rewards, ``[S]``."""
        return (self.discounts * self.earned()).sum(-1)

    def need(self, name: str, what: str) -> Tensor:
        """A column that an estimator cannot do without."""
        column: Tensor | None = getattr(self, name)
        if column is None:
            raise ValueError(f"this estimator needs `{name}` ({what}), and the sessions have none")
        return column

    def first(self, steps: int) -> LoggedSessions:
        """The first steps alone: of another, shorter question, that more sessions answer in full.

        A session that goes on is cut and complete; one that the log cut before stays truncated.
        Predictions and values are dropped, since they look further.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        cut = {name: getattr(self, name)[:, :steps] for name in (*_BY_STEP[:3], "mask")}
        short = None if self.truncated is None else self.truncated & (self.lengths < steps)
        return replace(self, **cut, prediction=None, value=None, truncated=short, final_value=None)

    def take(self, sessions: Tensor) -> LoggedSessions:
        """Some of the sessions."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {
            name: column[sessions] for name, column in columns.items() if isinstance(column, Tensor)
        }
        return replace(self, **taken)
