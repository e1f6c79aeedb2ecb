"""Any objective on all places of sequences at once: one pass of the encoder for many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_drpo.objectives._module import ActorLoss
from torchrl_drpo.policies.encoders.observations import OBSERVATION_KEYS

_MASK = ("collector", "mask")
_SEEN = ("observation", "seen")


class AllPlaces(nn.Module):
    """Runs an actor's encoder over whole sequences and gives a loss every row's state.

    A sequence of T items is T rows of the log (and more, where rows share an instant). Read row by
    row, each costs a pass over its history; read as one sequence, all of them cost one. The loss is
    any LossModule and sees rows as ever: a flat batch with actions, signals, a mask and, in place
    of observations, the states ``hidden [N, D]`` that the encoder gave.

    Args:
        make_loss: from an actor that reads ``hidden`` to the loss, such as ``DRPOLoss`` or
            ``partial(DRPOLoss, kappa=0.1)``. The actor shares all its parameters with ``actor``.
        actor: whose first module is a policy with ``places``, as those of
            :func:`~torchrl_drpo.make_catalogue_actor` and, with an encoder,
            :func:`~torchrl_drpo.make_gaussian_actor` are.

    Attributes:
        loss: what ``make_loss`` made.

    Raises:
        TypeError: for an actor whose first module has no ``places``.
        ValueError: for a loss of whole trajectories.

    Note:
        Where an objective drops rows, their log-probs are saved but not their part of the encoder.

    Examples:
        >>> import pandas as pd
        >>> from torchrl_drpo import BehaviorCloningLoss, LogSchema, RecReplayBuffer
        >>> from torchrl_drpo.policies import EncoderConfig, make_catalogue_actor
        >>> log = pd.DataFrame(dict(u=[7, 7, 7, 9], i=[3, 1, 2, 3], t=[1, 2, 3, 3], y=1.0))
        >>> schema = LogSchema(user="u", item="i", time="t", quality="y")
        >>> buffer = RecReplayBuffer.from_pandas(log, schema, history=5)
        >>> encoder = EncoderConfig("transformer")
        >>> actor = make_catalogue_actor(buffer.num_items, dim=8, history=5, encoder=encoder)
        >>> loss = AllPlaces(BehaviorCloningLoss, actor)
        >>> loss(buffer.sequences().sample(2))["loss_actor"].backward()
    """

    def __init__(
        self,
        make_loss: Callable[[ProbabilisticTensorDictSequential], nn.Module],
        actor: ProbabilisticTensorDictSequential,
    ) -> None:
        super().__init__()
        reader = _reader_of(actor)
        self.loss = make_loss(_reading_states(actor, reader))
        if getattr(self.loss, "level", "step") != "step":
            raise ValueError(
                "all places are rows, each with a weight of its own: make the loss with "
                "level='step', or give sessions to it directly"
            )
        self._keys: dict[str, NestedKey] = dict(OBSERVATION_KEYS)
        names = list(reader._kwargs or ["history"])
        self._keys |= dict(zip(names, reader.in_keys, strict=True))
        self._reads = set(names)

    @property
    def out_keys(self) -> list[NestedKey]:
        """What the loss writes."""
        return self.loss.out_keys

    def train(self, mode: bool = True) -> AllPlaces:
        """As usual; a functional loss's network, which is not a child, takes the mode too."""
        self.loss.actor_network.train(mode)
        return super().train(mode)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The loss of all rows of the sequences.

        Args:
            tensordict: a sample of :meth:`~torchrl_drpo.RecReplayBuffer.sequences`.
        """
        return self.loss(self.rows(tensordict))

    def rows(self, sequences: TensorDictBase) -> TensorDictBase:
        """What the loss sees of sequences ``[B]``: their rows ``[B * R]`` with states and a mask.

        Raises:
            KeyError: for rows that are not read as sequences.
        """
        seen = sequences.get(_SEEN, None)
        if seen is None:
            raise KeyError(
                f"all places are trained on whole sequences, which say in {_SEEN} how much of them "
                "each row had seen; sample buffer.sequences(), not the buffer"
            )
        given = {name: self._read(sequences, name) for name in ("times", "feedback")}
        about = {name: self._read(sequences, name) for name in ("context", "features")}
        with self._policy() as policy:
            places = policy.places(self._read(sequences, "history"), **given)
            states = places.take_along_dim(seen.unsqueeze(-1), 1)
            hidden = policy.encoder.finish(states, **about)
        out = TensorDict({"hidden": hidden.flatten(0, 1)}, [seen.numel()])
        for key, value in sequences.items(True, True):
            if value.shape[:2] == seen.shape and not _is_observation(key):
                out.set(key, value.flatten(0, 1))
        return out.set(_MASK, sequences.get(_MASK).flatten())

    @contextmanager
    def _policy(self) -> Iterator[Any]:
        """The policy inside the loss's actor, with the parameters that the loss trains."""
        network, holding = self.loss.actor_network, nullcontext()
        if isinstance(self.loss, ActorLoss):
            holding = self.loss._actor_parameters()
        elif self.loss.functional:
            holding = self.loss.actor_network_params.to_module(network)
        with holding:
            yield next(m.policy for m in network.modules() if isinstance(m, _GivenStates))

    def _read(self, rows: TensorDictBase, name: str) -> Tensor | None:
        return rows.get(self._keys[name]) if name in self._reads else None


class _GivenStates(nn.Module):
    """Passes states on; it holds the policy, so that whoever takes it holds all parameters."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


def _is_observation(key: NestedKey) -> bool:
    return isinstance(key, tuple) and key[0] == "observation"


def _reader_of(actor: ProbabilisticTensorDictSequential) -> TensorDictModule:
    """The module of an actor that makes states of observations."""
    for module in actor.modules():
        if isinstance(module, TensorDictModule) and hasattr(module.module, "places"):
            return module
    raise TypeError(
        "all places are trained where the actor's first module has places(), as that of "
        f"make_catalogue_actor has; got {type(actor).__name__} without one"
    )


def _reading_states(
    actor: ProbabilisticTensorDictSequential, reader: TensorDictModule
) -> ProbabilisticTensorDictSequential:
    """The same actor from ``hidden`` on."""
    following: list[Any] = []
    for module in _in_order(actor):
        if module is reader:
            given = _GivenStates(reader.module)
            module = TensorDictModule(given, in_keys=reader.out_keys, out_keys=reader.out_keys)
        following.append(module)
    return ProbabilisticTensorDictSequential(*following)


def _in_order(module: nn.Module) -> list[nn.Module]:
    """The modules that a sequence, or a sequence of sequences, runs."""
    if isinstance(module, nn.ModuleList):
        return [part for each in module for part in _in_order(each)]
    inner = module._modules.get("module")
    return _in_order(inner) if isinstance(inner, nn.ModuleList) else [module]
