"""What a training loop does among ranks: average gradients, bound their norm, name its shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchrl_drpo.distributed.group import Ranks


def data_parallel(module: nn.Module, ranks: Ranks) -> nn.Module:
    """The module with its gradients averaged over ranks as they come, rank 0's weights for all.

    Tables that are shared out are left alone, and a module with parameters that FSDP2 has sharded
    is given back as it is.

    Raises:
        ValueError: where some parameters are sharded by FSDP2 and others would go unreduced.
    """
    trained = [p for p in module.parameters() if p.requires_grad and not is_shard(p)]
    plain = [p for p in trained if not is_dtensor(p)]
    if plain and len(plain) < len(trained):
        names = [
            n for n, p in module.named_parameters() if p.requires_grad and not is_shard(p)
            and not is_dtensor(p)
        ]  # fmt: skip
        raise ValueError(
            f"fully_shard was given some networks of {type(module).__name__}, and nobody averages "
            f"the gradients of {', '.join(names)}; shard all of them, or none"
        )
    if not plain:
        return module
    return DistributedDataParallel(module, process_group=ranks.group)


def clip_grad_norm(parameters: Sequence[Tensor], max_norm: float, ranks: Ranks) -> Tensor:
    """As ``torch.nn.utils.clip_grad_norm_``, of all gradients wherever they lie; the norm.

    Call it with averaged gradients: every rank has those of the networks, and its own rows' of the
    tables that are shared out.
    """
    shards = [p for p in parameters if is_shard(p)]
    alike = [p for p in parameters if not is_shard(p)]
    device = parameters[0].device
    own = ranks.sum(_norm(shards).to(device).square())
    norm = (own + _norm(alike).to(device).square()).sqrt()
    torch.nn.utils.clip_grads_with_norm_(alike, max_norm, norm)
    torch.nn.utils.clip_grads_with_norm_(shards, max_norm, norm)
    return norm


def rows_of_shards(
    module: nn.Module, parameters: Sequence[nn.Parameter]
) -> dict[str, tuple[int, int, int]]:
    """Which rows of which tensors of a trainer's state this rank holds, by their path there.

    The tables themselves are the module's, and the optimiser's tensors of the same shape follow
    them; see :func:`~torchrl_drpo.distributed.checkpoint.save_sharded`.
    """
    rows = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if is_shard(parameter):
            rows[f"loss_module/{name}"] = parameter.shard_rows
    for place, parameter in enumerate(parameters):
        if is_shard(parameter):
            for moment in ("exp_avg", "exp_avg_sq"):
                rows[f"optimizer/state/{place}/{moment}"] = parameter.shard_rows
    return rows


def whole_state(state: Any) -> Any:
    """A nested state with whole tensors where FSDP2 has sharded them; every rank calls it."""
    if isinstance(state, Tensor):
        return state.full_tensor() if is_dtensor(state) else state
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [whole_state(value) for value in state]
    return state


def share_out(
    state: dict[str, Any], module: nn.Module, parameters: Sequence[nn.Parameter]
) -> dict[str, Any]:
    """A trainer's state with whole tensors as FSDP2 has sharded the module; in place."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if is_dtensor(parameter):
            state["loss_module"][name] = _like(state["loss_module"][name], parameter)
    for place, parameter in enumerate(parameters):
        if is_dtensor(parameter):
            moments = state["optimizer"]["state"].get(place, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in moments:
                    moments[moment] = _like(moments[moment], parameter)
    return state


def _like(values: Tensor, parameter: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    mesh = parameter.device_mesh
    return distribute_tensor(values.to(parameter.device), mesh, parameter.placements)


def check_alike(what: str, state: Tensor, ranks: Ranks) -> None:
    """Raises ``ValueError`` on every rank unless all have the same bytes."""
    found = hashlib.sha256(state.cpu().numpy().tobytes()).digest()
    every = ranks.gather(torch.tensor(list(found), dtype=torch.uint8, device=ranks.device))
    other = (every != every[0]).any(1).nonzero().flatten().tolist()
    if other:
        raise ValueError(f"{what} of ranks {other} differs from that of rank 0; seed all alike")


def is_shard(parameter: Tensor) -> bool:
    """Whether it holds rows of a table that is shared out among ranks."""
    return hasattr(parameter, "shard_rows")


def is_dtensor(parameter: Tensor) -> bool:
    """Whether FSDP2 has sharded it."""
    return hasattr(parameter, "full_tensor")


def _norm(parameters: Iterable[Tensor]) -> Tensor:
    """Norm of all their gradients, float32 at least, also of none."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if is_dtensor(norm) else norm
