"""Logged slates: L items shown together, by position where it is known, of unequal length."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from torchrl_drpo.evaluation.off_policy.padded import padded_column, prefix_mask
from torchrl_drpo.evaluation.off_policy.sequences.sessions import LoggedSessions

_COLUMNS = (
    "reward",
    "log_target",
    "log_behavior",
    "log_target_slot",
    "log_behavior_slot",
    "prediction",
    "value",
)
#: Columns that may be of the slate as a whole, with one entry a row.
_OF_WHOLE = ("reward", "log_target", "log_behavior")


@dataclass(frozen=True)
class LoggedSlates:
    r"""N slates of up to L positions under a policy in question; by position, float64 ``[N, L]``.

    What is estimated is the expected sum of a slate's rewards. Weigh them by position beforehand if
    some count more. A slate may be shorter than L; its padding may hold anything.

    Attributes:
        reward: r_l of each position; or ``[N]``, of the slate, for estimators of whole slates.
        log_target: :math:`\log \pi_e(a_l|x, a_{<l})`, as an autoregressive policy has them; or
            ``[N]``, of the slate. ``-inf`` where the policy would never choose so.
        log_behavior: the same of the logging policy.
        log_target_slot: :math:`\log \pi_e(a_l|x)`, the probability that the item is at position l
            whatever stands before it. Plackett-Luce policies have it by enumeration alone (see
            :func:`~torchrl_drpo.evaluation.off_policy.slates.candidates.slot_moments`).
        log_behavior_slot: the same of the logging policy.
        mask: True for the positions of a slate, from its first on; all by default.
        prediction: :math:`\hat q_l(x, a_{\le l})`, the rewards expected from position l on.
        value: :math:`\sum_a \pi_e(a|x, a_{<l}) \hat q_l(x, a_{<l}, a)`.
        cluster: ids of what varies as a whole (users), int64 ``[N]``.

    Raises:
        ValueError: for shapes that differ, values that are not finite, a slate without a position
            or with a gap, or one policy's probabilities without the other's.

    Example:
        >>> import torch
        >>> half = torch.full((1, 2), 0.5).log()
        >>> slates = LoggedSlates(torch.tensor([[1.0, 0.0]]), half, half)
        >>> slates.total(), slates.sequences().log_weights
        (tensor([1.], dtype=torch.float64), tensor([[0., 0.]], dtype=torch.float64))
    """

    reward: Tensor
    log_target: Tensor | None = None
    log_behavior: Tensor | None = None
    log_target_slot: Tensor | None = None
    log_behavior_slot: Tensor | None = None
    mask: Tensor = None  # type: ignore[assignment]  # all True then
    prediction: Tensor | None = None
    value: Tensor | None = None
    cluster: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.reward.shape[0] if self.reward.ndim else 0
        given = {name: getattr(self, name) for name in (*_COLUMNS, "mask")}
        lengths = [c.shape[1] for c in given.values() if c is not None and c.ndim > 1]
        if count == 0 or 0 in lengths:
            raise ValueError(f"slates need rewards [N, L] or [N], got {tuple(self.reward.shape)}")
        for name in ("", "_slot"):
            pair = (given[f"log_target{name}"], given[f"log_behavior{name}"])
            if (pair[0] is None) != (pair[1] is None):
                raise ValueError(f"log_target{name} and log_behavior{name} come together")
        mask = prefix_mask(self.mask, (count, max(lengths, default=1)), "slate", "position")
        object.__setattr__(self, "mask", mask)
        for name in _COLUMNS:
            column = given[name]
            if column is None:
                continue
            whole = name in _OF_WHOLE and column.ndim == 1
            of = mask[:, 0] if whole else mask
            found = padded_column(name, column, of, "slate", "position")
            object.__setattr__(self, name, found)
        if self.cluster is not None:
            if self.cluster.numel() != count:
                raise ValueError(f"cluster has {self.cluster.numel()} entries for {count} slates")
            ids = self.cluster.detach().reshape(-1).cpu().unique(return_inverse=True)[1]
            object.__setattr__(self, "cluster", ids)

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def lengths(self) -> Tensor:
        """Positions of each slate, int64 ``[N]``."""
        return self.mask.sum(-1)

    def total(self) -> Tensor:
        """Sum of each slate's rewards, ``[N]``."""
        return self.reward.reshape(len(self), -1).sum(-1)

    def wholes(self) -> LoggedSessions:
        """Each slate as one action."""
        target = self._need("log_target", "probabilities of the slates, or of each choice in turn")
        behavior = self._need("log_behavior", "the same of the logging policy")
        return LoggedSessions(
            self.total().unsqueeze(-1),
            target.reshape(len(self), -1).sum(-1, keepdim=True),
            behavior.reshape(len(self), -1).sum(-1, keepdim=True),
            cluster=self.cluster,
        )

    def sequences(self) -> LoggedSessions:
        """Each slate as a session, a position a step: what is chosen, top to bottom."""
        return LoggedSessions(
            self.by_position("reward", "rewards"),
            self.by_position("log_target", "probabilities given the items above"),
            self.by_position("log_behavior", "the same of the logging policy"),
            self.mask,
            self.prediction,
            self.value,
            cluster=self.cluster,
        )

    def log_slot_weights(self) -> Tensor:
        r"""Logarithms of :math:`w_l = \pi_e(a_l|x) / \pi_b(a_l|x)`, ``[N, L]``; 0 in padding."""
        target = self._need("log_target_slot", "the policy's probabilities of an item in a slot")
        return target - self._need("log_behavior_slot", "the logging policy's")

    def by_position(self, name: str, what: str) -> Tensor:
        """A column ``[N, L]``, which an estimator cannot do without."""
        column = self._need(name, what)
        if column.ndim < 2:
            raise ValueError(
                f"this estimator needs `{name}` by position ({what}), and the slates have one of "
                "each slate; take one of whole slates: standard_ips, pseudo_inverse"
            )
        return column

    def take(self, slates: Tensor) -> LoggedSlates:
        """Some of the slates."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {
            name: column[slates] for name, column in columns.items() if column is not None
        }
        return replace(self, **taken)

    def _need(self, name: str, what: str) -> Tensor:
        column: Tensor | None = getattr(self, name)
        if column is None:
            raise ValueError(f"this estimator needs `{name}` ({what}), and the slates have none")
        return column
