"""What an estimator sees of a log: one number a row for each quantity, and never a row of items."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

_LOGS = ("log_target", "log_behavior", "log_target_group", "log_behavior_group")
#: How far the logarithm of a sure action's probability may pass 0.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class LoggedRows:
    r"""Logged rows under a policy to be evaluated; ``N`` of them, all float64 ``[N]``.

    Probabilities are logarithms throughout: those of slates and of sequences multiply to numbers
    that no float holds.

    Attributes:
        reward: the logged reward r.
        log_target: :math:`\log \pi_e(a|x)` of the logged action under the policy in question;
            ``-inf`` where it would never take it.
        log_behavior: :math:`\log \pi_b(a|x)`, the logged propensity.
        prediction: :math:`\hat q(x, a)` by a model that has not seen the row, for the estimators
            that follow one.
        value: :math:`\hat V(x) = \sum_a \pi_e(a|x) \hat q(x, a)`, exact or by draws, whose error is
            then a part of the standard error.
        cluster: ids of what varies as a whole (users, sessions), int64; ``None`` where rows are
            independent.
        log_target_group: :math:`\log \pi_e(c(a)|x)` of the logged action's group.
        log_behavior_group: the same of the logging policy.
        density: whether the logarithms are of densities (actions that are vectors), which may
            lie above 0.
        fitted: whether the logging policy's probabilities come of a model of the log.
        never_logged: share of the policy on actions that no row of the log shows; NaN if unknown.
        never_logged_group: the same of groups.
        log_rows: rows of the log that these were drawn from, where they are a sample.

    Raises:
        ValueError: for rows that are not finite, an action that the logging policy is said never
            to take, shapes that differ, or no row at all.

    Example:
        >>> rows = LoggedRows(
        ...     reward=torch.tensor([1.0, 0.0]),
        ...     log_target=torch.tensor([0.5, 0.5]).log(),
        ...     log_behavior=torch.tensor([0.25, 0.75]).log(),
        ... )
        >>> rows.log_ratio.exp()
        tensor([2.0000, 0.6667], dtype=torch.float64)
    """

    reward: Tensor
    log_target: Tensor
    log_behavior: Tensor
    prediction: Tensor | None = None
    value: Tensor | None = None
    cluster: Tensor | None = None
    log_target_group: Tensor | None = None
    log_behavior_group: Tensor | None = None
    density: bool = False
    fitted: bool = False
    never_logged: float = math.nan
    never_logged_group: float = math.nan
    log_rows: int | None = None

    def __post_init__(self) -> None:
        count = self.reward.numel()
        if count == 0:
            raise ValueError("off-policy evaluation needs at least one logged row, got none")
        for field in fields(self):
            given = getattr(self, field.name)
            if not isinstance(given, Tensor):
                continue
            if given.numel() != count:
                raise ValueError(
                    f"{field.name} has {given.numel()} entries for {count} rewards; one a row is "
                    "expected"
                )
            if max(given.shape, default=1) != count:
                raise ValueError(
                    f"{field.name} has shape {tuple(given.shape)}, expected [N] or [N, 1]: a table "
                    "does not say which of its entries belong to one row; flatten all columns alike"
                )
            kind = torch.float64
            if field.name == "cluster":
                given, kind = whole_ids("cluster", given), torch.long
            flat = given.detach().reshape(-1).to("cpu", kind)
            object.__setattr__(self, field.name, flat)
            _check(field.name, flat, may_pass_zero=self.density)

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def log_ratio(self) -> Tensor:
        r"""Logarithm of the importance weight :math:`w = \pi_e(a|x) / \pi_b(a|x)`."""
        return self.log_target - self.log_behavior

    @property
    def log_group_ratio(self) -> Tensor:
        r"""Logarithm of :math:`\pi_e(c|x) / \pi_b(c|x)`, the weight of the action's group."""
        target = self.need("log_target_group", "the groups' probabilities under the policy")
        return target - self.need("log_behavior_group", "the groups' logged probabilities")

    def need(self, name: str, what: str) -> Tensor:
        """A column that an estimator cannot do without."""
        column: Tensor | None = getattr(self, name)
        if column is None:
            raise ValueError(f"this estimator needs `{name}` ({what}), and the rows have none")
        return column

    def residual(self) -> Tensor:
        """What the prediction leaves of the reward, r - q."""
        return self.reward - self.need("prediction", "a cross-fitted reward model's predictions")

    def take(self, rows: Tensor) -> LoggedRows:
        """Some of the rows."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v[rows] for k, v in columns.items() if isinstance(v, Tensor)})


def whole_ids(name: str, ids: Tensor) -> Tensor:
    """Ids as int64.

    Raises:
        ValueError: for numbers that are not whole by type: .2 and .7 would be one id, and float32
            has the same number for many ids above 2^24.
    """
    if ids.is_floating_point() or ids.is_complex():
        raise ValueError(
            f"{name} holds ids, whole numbers, got {ids.dtype}: number them, as "
            "torch.unique(..., return_inverse=True) does, before they become floats"
        )
    return ids.long()


def _check(name: str, values: Tensor, *, may_pass_zero: bool) -> None:
    """Raises ``ValueError`` for a value that such a column cannot hold."""
    if name == "cluster":
        return
    hint = ""
    bad = ~values.isfinite()
    if name in ("log_target", "log_target_group"):
        bad = values.isnan() | (values == torch.inf)  # -inf: the policy never takes the action
    elif name.startswith("log_behavior"):
        hint = "; the logging policy took this action, so its probability is above 0"
    if name in _LOGS and not may_pass_zero and not bad.any():
        bad = values > _ROUNDING
        hint = "; logarithms of probabilities are at most 0: are these probabilities?"
    rows = bad.nonzero().flatten().tolist()
    if rows:
        raise ValueError(f"{name} of row {rows[0]} is {values[rows[0]].item()}{hint}")
