"""Reward formulas over feedback columns: parsed with ``ast``, never evaluated as Python.

A formula is arithmetic over column names, numbers, comparisons, ``and``/``or``/``not``,
``a if c else b`` and the functions of :data:`FUNCTIONS`. A column of texts can be compared with a
text, as in ``type == 'order'``; a name that is no word of Python is quoted with backticks, as in
```Book-Rating` > 5``. Whatever else Python's grammar knows (attributes, indexing, calls of other
names, lambdas, ...) is refused with its position, so a schema from an untrusted place cannot run
code.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .quoting import hide_quoted, may_be_name, shown_again

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

    Attributes:
        columns: the columns that it reads, sorted.
        texts: those of them that it compares with texts.

    Raises:
        FormulaError: names the column (counted from one) of what is not allowed or unknown.

    Examples:
        >>> import numpy as np
        >>> f = Formula("is_click + 2 * (play_ms >= 18000) - 5 * is_hate")
        >>> f.columns
        ('is_click', 'is_hate', 'play_ms')
        >>> f(dict(is_click=np.ones(2), play_ms=np.array([0, 20000]), is_hate=np.zeros(2)))
        array([1., 3.])
        >>> f = Formula("3 * (type == 'order') + (`n-views` > 1)")
        >>> f({"type": np.array(["view", "order"]), "n-views": np.array([2, 2])})
        array([1., 4.])
        >>> Formula("click + __import__('os')")
        Traceback (most recent call last):
        torchrl_drpo.data.schema.formula.FormulaError: formula, column 9: unknown function...
    """

    text: str
    columns: tuple[str, ...] = field(init=False, compare=False)
    texts: tuple[str, ...] = field(init=False, compare=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError("a formula must be a non-empty string, such as 'is_click + is_like'")
        if len(self.text) > MAX_LENGTH:
            raise FormulaError(self.text[:80] + "...", MAX_LENGTH, "longer than 2,000 characters")
        written = self.text.strip()
        hidden: dict[str, str] = {}
        try:
            plain, hidden = hide_quoted(written)
            tree = ast.parse(plain, mode="eval").body
        except SyntaxError as error:
            column = max((error.offset or 1) - 1, 0)
            if not may_be_name(written):
                raise FormulaError(written, column, error.msg) from None
            tree = ast.Name(written, ast.Load())
        except (RecursionError, MemoryError):
            raise FormulaError(written, 0, "nested too deeply") from None
        check = _Check(written, hidden)
        check.walk(tree, 0)
        object.__setattr__(self, "columns", tuple(sorted({*check.numbers, *check.texts})))
        object.__setattr__(self, "texts", tuple(sorted(check.texts)))
        object.__setattr__(self, "_tree", tree)

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluates in float64.

        Args:
            values: the columns by name, each of shape ``[N]`` and any numeric or bool dtype;
                those of ``texts`` whatever gives a bool ``[N]`` when compared with a text.

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


@dataclass
class _Check:
    """One walk over the tree: collects column names, raises on anything that is not arithmetic.

    Args:
        text: the formula as it was written.
        hidden: what stands for quoted names; they are put back into the tree.
    """

    text: str
    hidden: dict[str, str]
    numbers: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    def walk(self, node: ast.expr, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._fail(node, f"nested deeper than {MAX_DEPTH}")
        for child in self._children(node):
            self.walk(child, depth + 1)

    def _children(self, node: ast.expr) -> list[ast.expr]:
        match node:
            case ast.Constant(value=bool() | int() | float()):
                if isinstance(node.value, int) and abs(node.value) > 2**62:
                    raise self._fail(node, "integer too large")
                return []
            case ast.Constant(value=str()):
                raise self._fail(node, "a text can only be compared, as in type == 'order'")
            case ast.Name():
                self._name(node, self.numbers, self.texts)
                return []
            case ast.BinOp() if isinstance(node.op, _BINARY):
                return [node.left, node.right]
            case ast.UnaryOp() if isinstance(node.op, _UNARY):
                return [node.operand]
            case ast.BoolOp():
                return node.values
            case ast.Compare(ops=[ast.Eq() | ast.NotEq()]) if of_text := _text_in(node):
                column, constant = of_text
                constant.value = shown_again(constant.value, self.hidden)
                self._name(column, self.texts, self.numbers)
                return []
            case ast.Compare() if all(isinstance(op, _COMPARE) for op in node.ops):
                return [node.left, *node.comparators]
            case ast.IfExp():
                return [node.test, node.body, node.orelse]
            case ast.Call(func=ast.Name(id=name)):
                if name not in FUNCTIONS:
                    known = ", ".join(sorted(FUNCTIONS))
                    raise self._fail(node, f"unknown function {name!r}; known: {known}")
                fewest, most = FUNCTIONS[name]
                if node.keywords or not fewest <= len(node.args) <= (most or len(node.args)):
                    wanted = f"{fewest}" if fewest == most else f"{fewest} or more"
                    given = len(node.args)
                    raise self._fail(node, f"{name} takes {wanted} plain arguments, got {given}")
                return node.args
        raise self._fail(
            node,
            f"{type(node).__name__} is not allowed; use column names (odd ones in backticks), "
            "numbers, + - * / // % **, comparisons, and/or/not, a if c else b, and "
            + ", ".join(sorted(FUNCTIONS)),
        )

    def _name(self, node: ast.Name, one: set[str], other: set[str]) -> None:
        """Notes a column as one of numbers or of texts, and not of both."""
        if node.id in FUNCTIONS:
            raise self._fail(node, f"{node.id!r} is a function; call it, as {node.id}(...)")
        node.id = self.hidden.get(node.id, node.id)
        if not node.id.strip():
            raise self._fail(node, "a name is missing between the backticks")
        if node.id in other:
            raise self._fail(node, f"{node.id!r} is used as a number here and as a text elsewhere")
        one.add(node.id)

    def _fail(self, node: ast.expr, problem: str) -> FormulaError:
        # Python counts bytes of UTF-8.
        before = self.text.encode()[: getattr(node, "col_offset", 0)]
        return FormulaError(self.text, len(before.decode(errors="ignore")), problem)


def _text_in(node: ast.Compare) -> tuple[ast.Name, ast.Constant] | None:
    """The column and the text of ``column == 'text'``, either way round."""
    sides = (node.left, node.comparators[0])
    for column, constant in (sides, sides[::-1]):
        if isinstance(column, ast.Name) and isinstance(constant, ast.Constant):
            return (column, constant) if isinstance(constant.value, str) else None
    return None
