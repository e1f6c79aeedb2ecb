"""What the operators and functions of a formula compute, in numpy's float64."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import numpy as np

_Array = np.ndarray
_BINARY: dict[type[ast.operator], Callable[[_Array, _Array], _Array]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_UNARY: dict[type[ast.unaryop], Callable[[_Array], _Array]] = {
    ast.UAdd: np.positive,
    ast.USub: np.negative,
    ast.Not: lambda x: (x == 0).astype(np.float64),
}
_COMPARE: dict[type[ast.cmpop], Callable[[_Array, _Array], _Array]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _reduce(op: Callable[[_Array, _Array], _Array]) -> Callable[..., _Array]:
    def apply(*values: _Array) -> _Array:
        out = values[0]
        for value in values[1:]:
            out = op(out, value)
        return out

    return apply


_FUNCTIONS: dict[str, Callable[..., _Array]] = {
    "min": _reduce(np.minimum),
    "max": _reduce(np.maximum),
    "abs": np.abs,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "clip": np.clip,
}


def evaluate(node: ast.expr, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The value of a checked expression; ``values`` holds its columns, each ``[N]``."""

    def sub(child: ast.expr) -> np.ndarray:
        return evaluate(child, values)

    match node:
        case ast.Constant():
            return np.float64(node.value)
        case ast.Name():
            return np.asarray(values[node.id], dtype=np.float64)
        case ast.BinOp():
            return _BINARY[type(node.op)](sub(node.left), sub(node.right))
        case ast.UnaryOp():
            return _UNARY[type(node.op)](sub(node.operand))
        case ast.BoolOp():
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return _reduce(join)(*[sub(v) != 0 for v in node.values]).astype(np.float64)
        case ast.Compare(ops=[op]) if (found := _compared_text(node)) is not None:
            name, text = found
            equal = np.asarray(values[name] == text, dtype=bool)
            return (equal == isinstance(op, ast.Eq)).astype(np.float64)
        case ast.Compare():
            sides = [sub(node.left), *[sub(c) for c in node.comparators]]
            held = [
                _COMPARE[type(op)](a, b)
                for op, a, b in zip(node.ops, sides[:-1], sides[1:], strict=True)
            ]
            return _reduce(np.logical_and)(*held).astype(np.float64)
        case ast.IfExp():
            return np.where(sub(node.test) != 0, sub(node.body), sub(node.orelse))
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*[sub(argument) for argument in node.args])
    raise AssertionError(type(node))  # a formula's check lets nothing else through


def _compared_text(node: ast.Compare) -> tuple[str, str] | None:
    """The column and the text of ``column == 'text'``, either way round; a check let it through."""
    sides = (node.left, node.comparators[0])
    texts = [each.value for each in sides if isinstance(each, ast.Constant)]
    if not texts or not isinstance(texts[0], str):
        return None
    return next(each.id for each in sides if isinstance(each, ast.Name)), texts[0]
