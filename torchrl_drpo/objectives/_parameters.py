"""Runs a network with the parameters of a functional loss, at little cost.

``TensorDictParams.to_module`` walks the whole module tree on the way in and on the way out, which
takes a fifth of a small policy's training step. The tree does not change between steps, so the
places where its tensors hang are looked up once; each step then writes a handful of dictionary
entries and puts the old ones back.
"""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import torch
from tensordict import TensorDictParams
from tensordict.utils import unravel_key
from torch import Tensor, nn

from torchrl_drpo.functional.host import under_functorch

Slots = list[tuple[dict[str, Tensor | None], str]]


class _Placed:
    """Tensors in their places, and afterwards those that were there before."""

    def __init__(self, slots: Slots, tensors: list[Tensor]) -> None:
        self._slots, self._tensors = slots, tensors
        self._before: list[Tensor | None] = []

    def __enter__(self) -> None:
        for (place, name), tensor in zip(self._slots, self._tensors, strict=True):
            self._before.append(place[name])
            place[name] = tensor

    def __exit__(self, *_: object) -> None:
        for (place, name), tensor in zip(self._slots, self._before, strict=True):
            place[name] = tensor


class ParameterSlots:
    """Where a module's parameters and buffers hang; found at the first use."""

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._slots: Slots | None = None
        self._leaves: list[Tensor] = []
        self._registered: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterSlots:
        """A copy of a loss has a module of its own, so the places are looked up again."""
        return ParameterSlots()

    def __reduce__(self) -> tuple[type[ParameterSlots], tuple[()]]:
        return ParameterSlots, ()

    def holding(
        self, params: TensorDictParams, module: nn.Module
    ) -> contextlib.AbstractContextManager[Any]:
        """``module`` with the tensors of ``params`` in place of its own."""
        slots = self._find(params, module)
        if slots is None or torch.compiler.is_compiling() or under_functorch():
            return params.to_module(module, preserve_module_state=False)
        return _Placed(slots, self._leaves_of(params))

    def _leaves_of(self, params: TensorDictParams) -> list[Tensor]:
        """All tensors of ``params`` in order.

        Walking the tree takes a while, listing what it has registered, all of it on itself, does
        not: as long as these are the very same objects, so are the leaves.
        """
        registered = [*params._parameters.values(), *params._buffers.values()]
        if len(registered) == len(self._registered) and all(
            map(operator.is_, registered, self._registered)
        ):
            return self._leaves
        self._leaves = list(params.values(True, True))
        # A plain tensor among the leaves is registered nowhere, so nothing would tell of another.
        everything = {id(leaf) for leaf in self._leaves}
        self._registered = registered if everything == {id(t) for t in registered} else []
        return self._leaves

    def _find(self, params: TensorDictParams, module: nn.Module) -> Slots | None:
        """The places in the order of ``params``' leaves; ``None`` where writing them is not enough.

        A module with its own ``__setattr__`` (recurrent layers keep a flat list of their weights)
        wants to be told of a new tensor, so it gets TensorDict's full treatment.
        """
        if self._module is module:
            return self._slots
        self._module, self._slots, self._registered = module, None, []
        if any(type(m).__setattr__ is not nn.Module.__setattr__ for m in module.modules()):
            return None
        slots: Slots = []
        for key in params.keys(True, True):
            *path, name = key if isinstance(key := unravel_key(key), tuple) else (key,)
            owner = module.get_submodule(".".join(path))
            place = owner._parameters if name in owner._parameters else owner._buffers
            if name not in place:
                return None
            slots.append((place, name))
        self._slots = slots
        return slots
