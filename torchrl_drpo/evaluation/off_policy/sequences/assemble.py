"""From flat rows with session ids to one row a session."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.rows import LoggedRows


def assemble(
    rows: LoggedRows,
    session: Tensor,
    step: Tensor | None = None,
    terminated: Tensor | None = None,
    next_value: Tensor | None = None,
    steps: int | None = None,
) -> dict[str, Tensor | None]:
    """Columns of :class:`LoggedSessions`; arguments and errors as of its ``from_rows``."""
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if next_value is not None and terminated is None:
        raise ValueError(
            "next_value is read for truncated sessions: say which rows end a session, by "
            "`terminated`"
        )
    ids, of_row = _flat("session", session, rows).unique(return_inverse=True)
    order = torch.arange(len(rows))
    if step is not None:
        step = _flat("step", step, rows)
        order = step.argsort(stable=True)
    order = order[of_row[order].argsort(stable=True)]
    of = of_row[order]
    lengths = torch.bincount(of)
    starts = lengths.cumsum(0) - lengths
    position = torch.arange(len(rows)) - starts[of]
    if step is not None:
        _check_steps(step[order], position, ids[of])
    width = int(lengths.max()) if steps is None else min(steps, int(lengths.max()))
    kept = position < width

    def padded(column: Tensor | None) -> Tensor | None:
        if column is None:
            return None
        out = column.new_zeros(len(ids), width)
        out[of[kept], position[kept]] = column[order][kept]
        return out

    truncated = _truncated(terminated, rows, order, position, lengths[of], ids[of])
    if truncated is not None and steps is not None:
        truncated &= lengths < steps  # a session that goes on is cut, and its first steps complete
    whole = steps is None  # what a model says of all steps to come is not of the first ones
    last = order[starts + lengths - 1]
    return {
        "reward": padded(rows.reward),
        "log_target": padded(rows.log_target),
        "log_behavior": padded(rows.log_behavior),
        "mask": torch.arange(width) < lengths.unsqueeze(-1),
        "prediction": padded(rows.prediction) if whole else None,
        "value": padded(rows.value) if whole else None,
        "truncated": truncated,
        "final_value": _flat("next_value", next_value, rows)[last]
        if whole and next_value is not None
        else None,
        "cluster": _clusters(rows.cluster, order, of, starts, ids),
    }


def _flat(name: str, given: Tensor, rows: LoggedRows) -> Tensor:
    if given.numel() != len(rows):
        raise ValueError(f"{name} has {given.numel()} entries for {len(rows)} rows")
    return given.detach().reshape(-1).cpu()


def _check_steps(step: Tensor, position: Tensor, session: Tensor) -> None:
    wrong = (step != position).nonzero().flatten().tolist()
    if wrong:
        at = wrong[0]
        raise ValueError(
            f"session {session[at].item()} has step {step[at].item()} where "
            f"{position[at].item()} was expected; a weight is a product over all steps before, so "
            "each session needs its steps 0, 1, ... once each"
        )


def _truncated(
    terminated: Tensor | None,
    rows: LoggedRows,
    order: Tensor,
    position: Tensor,
    length: Tensor,
    session: Tensor,
) -> Tensor | None:
    """Whether each session lacks an end, ``[S]``."""
    if terminated is None:
        return None
    ended = _flat("terminated", terminated, rows).bool()[order]
    last = position == length - 1
    early = (ended & ~last).nonzero().flatten().tolist()
    if early:
        raise ValueError(
            f"session {session[early[0]].item()} is terminated at step "
            f"{position[early[0]].item()} and goes on; rows after an end are another session's"
        )
    return ~ended[last]


def _clusters(
    cluster: Tensor | None, order: Tensor, of: Tensor, starts: Tensor, ids: Tensor
) -> Tensor | None:
    if cluster is None:
        return None
    ordered = cluster[order]
    of_session = ordered[starts]
    split = (ordered != of_session[of]).nonzero().flatten().tolist()
    if split:
        raise ValueError(
            f"session {ids[of[split[0]]].item()} has rows of two clusters; a session is one user's"
        )
    return of_session
