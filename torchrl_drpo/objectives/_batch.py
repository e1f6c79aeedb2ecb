"""What every objective asks of a batch: signals, masks, log-probabilities in the right shape."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from tensordict.utils import NestedKey
from torch import Tensor
from torch.distributions import Distribution


def read_entry(tensordict: TensorDictBase, key: NestedKey, what: str, owner: str) -> Tensor:
    """An entry of the batch, or a ``KeyError`` that says which key the loss wanted and why."""
    value = tensordict.get(key, None)
    if value is None:
        raise KeyError(
            f"{owner} reads its {what} from {key!r}, which the batch does not have (it has "
            f"{sorted(map(str, tensordict.keys(True, True)))}); name another entry with "
            f"loss.set_keys({what}=...)"
        )
    return value


def optional_entry(tensordict: TensorDictBase, key: NestedKey) -> Tensor | None:
    """An entry that most batches do not have; looking at the outermost keys is quickest."""
    outermost, present = key[0] if isinstance(key, tuple) else key, tensordict.keys()
    if isinstance(outermost, str) and outermost not in present:
        return None
    return tensordict.get(key, None)


def per_step(values: Tensor, batch: torch.Size, what: str, key: NestedKey | None = None) -> Tensor:
    """``[*B]`` or ``[*B, 1]`` as ``[*B]``; ``what``, found under ``key``, is told of in errors."""
    if values.shape == batch:
        return values
    if values.shape == (*batch, 1):
        return values.squeeze(-1)
    named = what if key is None else f"{what} {key!r}"
    raise ValueError(
        f"{named} must have shape {tuple(batch)} or {(*batch, 1)} to fit the batch, "
        f"got {tuple(values.shape)}"
    )


def per_trajectory(
    values: Tensor, batch: torch.Size, mask: Tensor | None, what: str, key: NestedKey
) -> Tensor:
    """One number for each row of a ``[B, T]`` batch: itself, or the sum over its valid steps."""
    if values.shape in (batch[:1], (*batch[:1], 1)):
        return values.reshape(batch[:1])
    steps = per_step(values, batch, what, key)
    if mask is not None:
        steps = torch.where(mask, steps, 0.0)
    return steps.sum(tuple(range(1, steps.ndim)))


def group_ids(tensordict: TensorDictBase, key: NestedKey, batch: torch.Size, owner: str) -> Tensor:
    """Integer ids of shape ``batch``; for trajectories those of their first step."""
    group = read_entry(tensordict, key, "group_key", owner)
    if group.is_floating_point():
        raise TypeError(
            f"group ids in {key!r} must be integers, got {group.dtype}; encode them first"
        )
    if len(batch) < tensordict.ndim and group.shape[: tensordict.ndim] == tensordict.shape:
        group = group.flatten(1)[:, 0]
    return per_step(group, batch, "group ids", key)


def valid_steps(
    tensordict: TensorDictBase, keys: tuple[NestedKey, ...], batch: torch.Size
) -> Tensor | None:
    """The masks found under ``keys``, ANDed, of shape ``[*B]``; ``True`` is valid."""
    mask = None
    for key in keys:
        found = optional_entry(tensordict, key)
        if found is None:
            continue
        if found.dtype != torch.bool:
            raise TypeError(f"mask {key!r} must be boolean (True = valid), got {found.dtype}")
        found = per_step(found, batch, "mask", key)
        mask = found if mask is None else mask & found
    return mask


def fitting_action(dist: Distribution, action: Tensor, batch: torch.Size) -> Tensor:
    """``[*B, 1]`` item indices as ``[*B]``, the shape of the distribution's own draws."""
    if dist.event_shape or is_tensor_collection(action):
        return action
    if dist.batch_shape == batch and action.shape == (*batch, 1):
        return action.squeeze(-1)
    return action


def action_log_prob(dist: Distribution, action: Tensor, batch: torch.Size) -> Tensor:
    """``log pi(a|s)`` in shape ``[*B]``, whatever the distribution's habits.

    Sums over event dimensions that a distribution without ``Independent`` leaves open, and takes
    ``[*B, 1]`` integer actions, which would otherwise broadcast into ``[*B, *B]``.
    """
    log_prob = dist.log_prob(fitting_action(dist, action, batch))
    if not isinstance(log_prob, Tensor):
        log_prob = sum(
            _sum_to(leaf, batch)
            for leaf in log_prob.values(True, True)  # composite actions
        )
    return _sum_to(log_prob, batch)


def _sum_to(log_prob: Tensor, batch: torch.Size) -> Tensor:
    if log_prob.shape == batch:
        return log_prob
    if log_prob.shape[: len(batch)] != batch:
        raise ValueError(
            f"the policy's log_prob has shape {tuple(log_prob.shape)} for a batch of shape "
            f"{tuple(batch)}; log_prob(action) must give one number per row"
        )
    return log_prob.flatten(len(batch)).sum(-1)


def take(
    tensordict: TensorDictBase, keys: Iterable[NestedKey], rows: Tensor | None
) -> TensorDictBase:
    """``tensordict.select(*keys)[rows]``, of all rows for ``None``; cheap for flat batches."""
    keys = tuple(keys)
    taken: dict[str, Tensor] = {}
    for key in keys:
        entry = tensordict.get(key, None)
        if entry is None:
            continue
        if not (isinstance(key, str) and isinstance(entry, Tensor)):
            chosen = tensordict.select(*keys, strict=False)
            return chosen if rows is None else chosen[rows]
        taken[key] = entry if rows is None else entry.index_select(0, rows)
    batch = tensordict.shape
    if rows is not None:
        batch = torch.Size([rows.shape[0], *batch[1:]])
    return assembled(taken, batch)


def assembled(entries: dict[str, Tensor], batch: torch.Size) -> TensorDict:
    """``TensorDict(entries, batch)`` of tensors that are known to fit, without looking at each.

    TensorDict's own looks take as long as a tenth of a small policy's step.
    """
    return TensorDict._new_unsafe(entries, batch)


def cleared(inputs: TensorDictBase, mask: Tensor) -> TensorDictBase:
    """The batch with zeros at invalid steps: padding may hold NaN, and NaN has a gradient."""

    def clear(values: Tensor) -> Tensor:
        spread = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
        return torch.where(spread, values, torch.zeros_like(values))

    return inputs.apply(clear)
