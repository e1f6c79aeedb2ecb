"""Reward formulas over feedback columns: parsed with ``ast``, never evaluated as Python.

A formula is arithmetic over column names, numbers, comparisons, ``and``/``or``/``not``,
``a if c else b`` and the functions of :data:`FUNCTIONS`. Whatever else Python's grammar knows
(attributes, indexing, calls of other names, strings, lambdas, ...) is refused with its position,
so a schema from an untrusted place cannot run code.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MAX_LENGTH = 2_000
MAX_DEPTH = 60

_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_UNARY = (ast.UAdd, ast.USub, ast.Not)
_COMPARE = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)

#: Name -> (fewest arguments, most arguments or None).
FUNCTIONS: dict[str, tuple[int, int | None]] = {
    "min": (2, None),
    "max": (2, None),
    "abs": (1, 1),
    "log": (1, 1),
    "log1p": (1, 1),
    "log2": (1, 1),
    "exp": (1, 1),
    "sqrt": (1, 1),
    "floor": (1, 1),
    "clip": (3, 3),
}


class FormulaError(ValueError):
    """A formula that cannot be parsed, with the text and a caret under the place."""

    def __init__(self, text: str, column: int, problem: str) -> None:
        self.column = column
        caret = " " * column + "^"
        super().__init__(f"formula, column {column + 1}: {problem}\n  {text}\n  {caret}")


@dataclass(frozen=True)
class Formula:
    """A parsed formula: an arithmetic expression over named columns.

    Args:
        text: the expression, at most 2,000 characters.

    Raises:
        FormulaError: names the column (counted from one) of what is not allowed or unknown.

    Examples:
        >>> import numpy as np
        >>> f = Formula("is_click + 2 * (play_ms >= 18000) - 5 * is_hate")
        >>> f.columns
        ('is_click', 'is_hate', 'play_ms')
        >>> f(dict(is_click=np.ones(2), play_ms=np.array([0, 20000]), is_hate=np.zeros(2)))
        array([1., 3.])
        >>> Formula("click + __import__('os')")
        Traceback (most recent call last):
        torchrl_drpo.data.schema.formula.FormulaError: formula, column 9: unknown function...
    """

    text: str
    columns: tuple[str, ...] = field(init=False, compare=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError("a formula must be a non-empty string, such as 'is_click + is_like'")
        if len(self.text) > MAX_LENGTH:
            raise FormulaError(self.text[:80] + "...", MAX_LENGTH, "longer than 2,000 characters")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except SyntaxError as error:
            column = max((error.offset or 1) - 1, 0)
            raise FormulaError(self.text.strip(), column, error.msg) from None
        except (RecursionError, MemoryError):
            raise FormulaError(self.text.strip(), 0, "nested too deeply") from None
        names: set[str] = set()
        _check(tree, self.text.strip(), names, 0)
        object.__setattr__(self, "columns", tuple(sorted(names)))
        object.__setattr__(self, "_tree", tree)

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluates in float64.

        Args:
            values: the columns by name, each of shape ``[N]`` and any numeric or bool dtype.

        Returns:
            float64 ``[N]`` (``[]`` for a formula without columns); division by zero and the
            logarithm of a negative number give infinities and NaN, for the caller to report.

        Raises:
            KeyError: if a column is missing.
        """
        missing = [name for name in self.columns if name not in values]
        if missing:
            raise KeyError(f"formula {self.text!r} needs the columns {missing}")
        import numpy as np  # a schema that is only read needs none

        from .arithmetic import evaluate

        with np.errstate(all="ignore"):
            return np.asarray(evaluate(self._tree, values), dtype=np.float64)


def _check(node: ast.expr, text: str, names: set[str], depth: int) -> None:
    """Walks the tree once, collecting column names; raises on anything that is not arithmetic."""

    def fail(problem: str) -> FormulaError:
        return FormulaError(text, getattr(node, "col_offset", 0), problem)

    if depth > MAX_DEPTH:
        raise fail(f"nested deeper than {MAX_DEPTH}")
    children: list[ast.expr] = []
    match node:
        case ast.Constant(value=bool() | int() | float()):
            if isinstance(node.value, int) and abs(node.value) > 2**62:
                raise fail("integer too large")
        case ast.Name():
            if node.id in FUNCTIONS:
                raise fail(f"{node.id!r} is a function; call it, as {node.id}(...)")
            names.add(node.id)
        case ast.BinOp() if isinstance(node.op, _BINARY):
            children = [node.left, node.right]
        case ast.UnaryOp() if isinstance(node.op, _UNARY):
            children = [node.operand]
        case ast.BoolOp():
            children = node.values
        case ast.Compare() if all(isinstance(op, _COMPARE) for op in node.ops):
            children = [node.left, *node.comparators]
        case ast.IfExp():
            children = [node.test, node.body, node.orelse]
        case ast.Call(func=ast.Name(id=name)):
            if name not in FUNCTIONS:
                raise fail(f"unknown function {name!r}; known: {', '.join(sorted(FUNCTIONS))}")
            fewest, most = FUNCTIONS[name]
            if node.keywords or not fewest <= len(node.args) <= (most or len(node.args)):
                wanted = f"{fewest}" if fewest == most else f"{fewest} or more"
                raise fail(f"{name} takes {wanted} plain arguments, got {len(node.args)}")
            children = node.args
        case _:
            raise fail(
                f"{type(node).__name__} is not allowed; use column names, numbers, "
                "+ - * / // % **, comparisons, and/or/not, a if c else b, and "
                + ", ".join(sorted(FUNCTIONS))
            )
    for child in children:
        _check(child, text, names, depth + 1)
