"""Asks a policy for its distribution and a critic for its values, at little cost.

The usual network is called straight away, with tensors in and tensors out: writing its outputs
into a tensordict and reading them back takes as long as a small network does. Every other one goes
through TensorDict.
"""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.modules import (
    ProbabilisticActor,
    SafeModule,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
)

from torchrl_drpo.objectives._batch import per_step, read_entry
from torchrl_drpo.policies.gaussian import DiagonalNormal, GaussianHead

_SEQUENCES = (
    ProbabilisticTensorDictSequential,
    SafeProbabilisticTensorDictSequential,
    ProbabilisticActor,
)
_NETWORKS = (TensorDictModule, SafeModule)
_LOC_AND_SCALE = ["loc", "scale"]
_HEADS = (ProbabilisticTensorDictModule, SafeProbabilisticModule)


def distribution_of(
    policy: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> Distribution:
    """``policy.get_dist(inputs)``; the usual policy is one network and one distribution."""
    # Looking a submodule up by attribute takes several calls, and a small step is a few hundred.
    modules = policy._modules.get("module") if type(policy) in _SEQUENCES else None
    if type(modules) is not nn.ModuleList or len(modules._modules) != 2:
        return policy.get_dist(inputs)
    network, head = modules._modules.values()
    if type(head) not in _HEADS or not set(head.in_keys) <= set(network.out_keys):
        return policy.get_dist(inputs)
    outputs = _outputs_of(network, inputs, compact=_takes_loc_and_scale(head))
    if outputs is None:
        return policy.get_dist(inputs)
    if isinstance(outputs, tuple):
        return DiagonalNormal(*outputs)
    return head.get_dist(outputs)


def value_of(
    network: TensorDictModuleBase, inputs: TensorDictBase, key: NestedKey, name: str, who: str
) -> Tensor:
    """What a critic writes under ``key`` (``tensor_keys.<name>``), ``[*B]``; inputs are left alone.

    Raises:
        KeyError: if it writes no such entry.
        ValueError: if the value is not one number a row.
    """
    outputs = _outputs_of(network, inputs)
    if not isinstance(outputs, dict) or key not in outputs:
        outputs = network(inputs.select(*network.in_keys))
    return per_step(read_entry(outputs, key, name, who), inputs.shape, f"{who}'s value")


def _outputs_of(
    network: TensorDictModuleBase, inputs: TensorDictBase, *, compact: bool = False
) -> dict[NestedKey, Tensor] | tuple[Tensor, Tensor] | None:
    """The outputs of a plain network by key; ``None`` for one that TensorDict has to call.

    ``compact``: a Gaussian head may give a tuple instead, its scale as the one row that it is.
    """
    module = network._modules.get("module")
    if module is None or not _is_plain(network):
        return None
    arguments = []
    for key in network.in_keys:
        arguments.append(inputs.get(key, None))
        if arguments[-1] is None:
            return None  # TensorDict says what is missing
    if (
        compact
        and type(module) is GaussianHead
        and network.out_keys == _LOC_AND_SCALE
        and not _is_listened_to(module)
    ):
        return module.compact(*arguments)
    outputs = module(*arguments)
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    elif not isinstance(outputs, tuple):
        return {key: outputs[key] for key in network.out_keys}
    return dict(zip(network.out_keys, outputs, strict=True))


def _takes_loc_and_scale(head: ProbabilisticTensorDictModule) -> bool:
    """Whether the head is ``DiagonalNormal(loc, scale)`` and nothing more."""
    return (
        head.distribution_class is DiagonalNormal
        and head.dist_keys == head.in_keys == _LOC_AND_SCALE
        and not head.distribution_kwargs
    )


def _is_plain(network: nn.Module) -> bool:
    """A network that is called with its inputs in order, and that nobody listens to."""
    return (
        type(network) in _NETWORKS
        and network.method is None
        and network._kwargs is None
        and not network.method_kwargs
        and not _is_listened_to(network)
    )


def _is_listened_to(module: nn.Module) -> bool:
    """Whether somebody hooked into the calls of this very module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
