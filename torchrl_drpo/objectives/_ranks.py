"""What a loss does among several ranks, where its batch is one of many: nothing silently."""

from __future__ import annotations

from collections.abc import Iterable

from tensordict.nn import TensorDictModuleBase
from torch import nn

from torchrl_drpo.distributed.ranks import is_fully_sharded, warn_once


def tell_of_rank_local_numbers(owner: str, numbers: tuple[str, ...], ranks: int) -> None:
    """Warns once a process that numbers of the batch are those of this rank's rows alone."""
    if not numbers:
        return
    copied = " (and DistributedDataParallel copies rank 0's kappa to the others)"
    warn_once(
        "rank-local numbers",
        f"{owner} runs in a process group of {ranks} ranks, and takes its {', '.join(numbers)} "
        f"from each rank's own rows{copied if 'kappa' in numbers else ''}: together the ranks "
        "train another objective than one process would on all rows. Make the loss with over=, the "
        "process group or device mesh whose ranks' rows are one batch",
    )


def refuse_sharding_that_trains_wrongly(
    owner: str, modules: Iterable[nn.Module], functional: bool
) -> None:
    """Raises where FSDP2 would leave gradients unreduced, or none at all.

    Its hooks sit on the tensors that a module returns, and do not look into a tensordict.
    """
    how = (
        "shard the network inside, fully_shard(actor[0].module), before the loss is made, and "
        f"make it with {owner}(actor, ..., functional=False)"
    )
    for module in modules:
        if not is_fully_sharded(module):
            continue
        if isinstance(module, TensorDictModuleBase):
            name = type(module).__name__.removeprefix("FSDP")
            raise RuntimeError(
                f"fully_shard was given a {name}, which returns a TensorDict: FSDP2 would leave "
                f"its gradients on each rank unreduced; {how}"
            )
        if functional:
            raise RuntimeError(
                f"{owner} holds its parameters apart from the network (functional=True), where "
                f"FSDP2 does not find them; {how}"
            )
