"""Nested state as tensors by name and plain data: what formats without pickle can hold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_TENSOR, _PAIRS = "tensor:", "pairs"


def flattened(state: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Tensors by path, and JSON data with their paths in their places.

    Dictionaries may have integer keys, as optimisers' states do; tuples become lists.

    Raises:
        TypeError: for anything that is neither a tensor nor plain data.

    >>> import torch
    >>> tensors, plain = flattened({"step": 3, "state": {0: {"m": torch.zeros(2)}}})
    >>> list(tensors), plain["step"]
    (['state/0/m'], 3)
    """
    if isinstance(state, Tensor):
        return {prefix: state}, _TENSOR + prefix
    if state is None or isinstance(state, bool | int | float):
        return {}, state
    if isinstance(state, str):
        if state.startswith(_TENSOR):
            raise TypeError(f"{prefix!r} holds {state!r}, which would be read as a tensor's name")
        return {}, state
    tensors: dict[str, Tensor] = {}
    if isinstance(state, dict):
        pairs = []
        for key, value in state.items():
            found, plain = flattened(value, f"{prefix}/{key}" if prefix else str(key))
            tensors |= found
            pairs.append([key, plain])
        if all(isinstance(key, str) for key, _ in pairs) and _PAIRS not in state:
            return tensors, dict(pairs)
        return tensors, {_PAIRS: pairs}
    if isinstance(state, list | tuple):
        values = []
        for place, value in enumerate(state):
            found, plain = flattened(value, f"{prefix}/{place}")
            tensors |= found
            values.append(plain)
        return tensors, values
    raise TypeError(f"{prefix!r} holds a {type(state).__name__}, which cannot be saved as data")


def assembled(tensors: dict[str, Tensor], plain: Any) -> Any:
    """The state that :func:`flattened` took apart."""
    if isinstance(plain, str) and plain.startswith(_TENSOR):
        return tensors[plain.removeprefix(_TENSOR)]
    if isinstance(plain, list):
        return [assembled(tensors, value) for value in plain]
    if isinstance(plain, dict):
        if set(plain) == {_PAIRS}:
            return {key: assembled(tensors, value) for key, value in plain[_PAIRS]}
        return {key: assembled(tensors, value) for key, value in plain.items()}
    return plain
