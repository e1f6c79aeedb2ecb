from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrl_drpo.data.schema.formula import FUNCTIONS, Formula, FormulaError
from torchrl_drpo.data.schema.quoting import as_name

X, Y = np.array([0.5, 2.0, 3.0, -1.0]), np.array([1.0, 0.0, 3.0, 2.0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x + 2*y - 1", X + 2 * Y - 1),
        ("x // y", np.array([0.0, np.inf, 1.0, -1.0])),
        ("-x ** 2 % 3", (-(X**2)) % 3),
        ("min(x, y, 1.5)", np.array([0.5, 0.0, 1.5, -1.0])),
        ("clip(x, 0, 1) + abs(x)", np.clip(X, 0, 1) + np.abs(X)),
        ("log1p(y) * sqrt(y)", np.log1p(Y) * np.sqrt(Y)),
        ("0 <= x < 3", np.array([1.0, 1.0, 0.0, 0.0])),
        ("x if x > y else y", np.maximum(X, Y)),
        ("(x > 0) and not (y == 0) or False", np.array([1.0, 0.0, 1.0, 0.0])),
        ("1", np.array(1.0)),
    ],
)
def test_formula_equals_numpy(text, expected):
    np.testing.assert_allclose(Formula(text)({"x": X, "y": Y}), expected)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("__import__('os').system('true')", 1, "Call is not allowed"),
        ("click + open", None, None),
        ("x.real", 1, "Attribute"),
        ("x[0]", 1, "Subscript"),
        ("lambda: 1", 1, "Lambda"),
        ("'text'", 1, "a text can only be compared"),
        ("3 * (type == 'a') + type", 21, "'type' is used as a number here and as a text elsewhere"),
        ("type < 'a'", 8, "a text can only be compared"),
        ("type == 'a' == 'b'", 9, "a text can only be compared"),
        ("log1p(x) == 'a'", 13, "a text can only be compared"),
        ("1 + `` > 2", 5, "a name is missing between the backticks"),
        ("`a-b` + evil(x)", 9, "unknown function 'evil'"),
        ("'\u00e9' == x and evil(x)", 14, "unknown function 'evil'"),
        ("x + `y", None, "invalid syntax"),
        ("[x for x in y]", 1, "ListComp"),
        ("click + evil(x)", 9, "unknown function 'evil'"),
        ("max(x)", 1, "max takes 2 or more"),
        ("clip(x, a=1)", 1, "clip takes 3"),
        ("x + log", 5, "'log' is a function"),
        ("x +", None, "invalid syntax"),
        ("(y := 3)", 2, "NamedExpr"),
        ("x @ y", 1, "BinOp"),
        ("x & y", 1, "BinOp"),
        ("9" * 40, 1, "too large"),
        ("-" * 500 + "x", None, "nested"),
        ("x" + "+x" * 2000, None, "2,000"),
    ],
)
def test_formula_refuses_all_but_arithmetic(text, column, problem):
    if problem is None:  # a builtin's name is a column like any other
        assert Formula(text).columns == ("click", "open")
        return
    with pytest.raises(FormulaError, match=problem) as caught:
        Formula(text)
    if column is not None:
        assert f"column {column}:" in str(caught.value)


def test_formula_names_missing_columns():
    with pytest.raises(KeyError, match="needs the columns \\['like'\\]"):
        Formula("click + like")({"click": X})


@given(st.recursive(
    st.sampled_from(["x", "y", "2", "0.5"]),
    lambda e: st.builds("({} {} {})".format, e, st.sampled_from(["+", "-", "*"]), e),
    max_leaves=12,
))  # fmt: skip
def test_formula_agrees_with_python_on_arithmetic(text):
    expected = eval(text, {"__builtins__": {}}, {"x": X, "y": Y})
    np.testing.assert_allclose(Formula(text)({"x": X, "y": Y}), expected)


def test_functions_are_all_reachable():
    for name, (fewest, _) in FUNCTIONS.items():
        arguments = ", ".join(["x", "0.1", "0.9"][:fewest])
        assert Formula(f"{name}({arguments})")({"x": np.array([0.5])}).shape == (1,)


TYPE = np.array(["view", "order", "`_0`", ""])


@pytest.mark.parametrize(
    ("text", "expected", "columns"),
    [
        ("3 * (type == 'order') + (type != 'view')", [0, 4, 1, 1], ("type",)),
        ("'order' == type", [0, 1, 0, 0], ("type",)),
        ("`a type` == 'order' and `x-y:float` > 1", [0, 1, 0, 0], ("a type", "x-y:float")),
        ("(type == '`_0`') + `_0_`", [1, 2, 4, -1], ("_0_", "type")),
        ("`max` + max(`max`, 0)", [1, 4, 6, -1], None),
        ("1 if type == '' else 0", [0, 0, 0, 1], ("type",)),
    ],
)
def test_texts_and_odd_names(text, expected, columns):
    values = {"type": TYPE, "a type": TYPE, "x-y:float": X, "_0_": np.ceil(X), "max": X}
    if columns is None:
        with pytest.raises(FormulaError, match="'max' is a function"):
            Formula(text.replace("`", ""))
    formula = Formula(text)
    assert formula.columns == (columns or ("max",))
    np.testing.assert_array_equal(formula(values), expected)


@pytest.mark.parametrize(
    "name", ["rating:float", "Book-Rating", "is click", "user.rating x", "2nd"]
)
def test_a_name_of_a_column_is_that_column(name):
    """Where it is no formula at all it can be nothing else; where it is one, the log decides."""
    assert Formula(as_name(name, [name])).columns == (name,)
    assert as_name(name, ["other"]) == name
    if name != "Book-Rating":
        assert Formula(name).columns == (name,)
