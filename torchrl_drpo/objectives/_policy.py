"""Asks a policy for its distribution, at little cost."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torch.distributions import Distribution
from torchrl.modules import (
    ProbabilisticActor,
    SafeModule,
    SafeProbabilisticModule,
    SafeProbabilisticTensorDictSequential,
)

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
    """``policy.get_dist(inputs)``.

    The usual policy is one network and one distribution. It is called straight away, with tensors
    in and tensors out: writing its outputs into a tensordict and reading them back takes as long
    as a small network does. Every other policy goes through ``get_dist``.
    """
    modules = policy.module
    if type(policy) not in _SEQUENCES or len(modules) != 2 or isinstance(modules, nn.ModuleDict):
        return policy.get_dist(inputs)
    network, head = modules
    if not (_is_plain(network) and type(head) in _HEADS):
        return policy.get_dist(inputs)
    if not set(head.in_keys) <= set(network.out_keys):
        return policy.get_dist(inputs)
    outputs = network.module(*(inputs.get(key) for key in network.in_keys))
    if not isinstance(outputs, tuple):
        outputs = (outputs,)
    return head.get_dist(dict(zip(network.out_keys, outputs, strict=True)))


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
