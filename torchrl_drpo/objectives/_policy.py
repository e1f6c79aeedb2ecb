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

_SEQUENCES = (
    ProbabilisticTensorDictSequential,
    SafeProbabilisticTensorDictSequential,
    ProbabilisticActor,
)
_NETWORKS = (TensorDictModule, SafeModule)
_HEADS = (ProbabilisticTensorDictModule, SafeProbabilisticModule)


def distribution_of(
    policy: ProbabilisticTensorDictSequential, inputs: TensorDictBase
) -> Distribution:
    """``policy.get_dist(inputs)``; the usual policy is one network and one distribution."""
    modules = policy.module
    if type(policy) not in _SEQUENCES or len(modules) != 2 or isinstance(modules, nn.ModuleDict):
        return policy.get_dist(inputs)
    network, head = modules
    if type(head) not in _HEADS or not set(head.in_keys) <= set(network.out_keys):
        return policy.get_dist(inputs)
    outputs = _outputs_of(network, inputs)
    return policy.get_dist(inputs) if outputs is None else head.get_dist(outputs)


def value_of(
    network: TensorDictModuleBase, inputs: TensorDictBase, key: NestedKey, name: str, who: str
) -> Tensor:
    """What a critic writes under ``key`` (``tensor_keys.<name>``), ``[*B]``; inputs are left alone.

    Raises:
        KeyError: if it writes no such entry.
        ValueError: if the value is not one number a row.
    """
    outputs = _outputs_of(network, inputs)
    if outputs is None or key not in outputs:
        outputs = network(inputs.select(*network.in_keys))
    return per_step(read_entry(outputs, key, name, who), inputs.shape, f"{who}'s value")


def _outputs_of(
    network: TensorDictModuleBase, inputs: TensorDictBase
) -> dict[NestedKey, Tensor] | None:
    """The outputs of a plain network by key; ``None`` for one that TensorDict has to call."""
    if not _is_plain(network):
        return None
    arguments = [inputs.get(key, None) for key in network.in_keys]
    if any(argument is None for argument in arguments):
        return None  # TensorDict says what is missing
    outputs = network.module(*arguments)
    if isinstance(outputs, (dict, TensorDictBase)):
        return {key: outputs[key] for key in network.out_keys}
    if not isinstance(outputs, tuple):
        outputs = (outputs,)
    return dict(zip(network.out_keys, outputs, strict=True))


def _is_plain(network: nn.Module) -> bool:
    """A network that is called with its inputs in order, and that nobody listens to."""
    return (
        type(network) in _NETWORKS
        and isinstance(network.module, nn.Module)
        and network.method is None
        and network._kwargs is None
        and not network.method_kwargs
        and not network._forward_hooks
        and not network._forward_pre_hooks
    )
