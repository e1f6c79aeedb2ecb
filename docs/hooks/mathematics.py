"""Formulas become MathML when the site is built: nothing is fetched or run to read them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
    re.S,
)
_THIN = '<mspace width="0.167em"/>'


def on_page_content(content: str, **_: Any) -> str:
    """Converts what pymdownx.arithmatex has marked."""
    return _FORMULA.sub(_converted, content)


def _spaced(formula: str) -> str:
    """Names of functions are names, not operators, and get TeX's thin space behind them."""
    formula = re.sub(r"<mo>([a-z]{2,})</mo>", r"<mi>\1</mi>", formula)
    return re.sub(r"(<mi>(?:log|exp|max|min)</mi>)(?=<m(?:i|sub|row)\b)", rf"\1{_THIN}", formula)


def _converted(found: re.Match[str]) -> str:
    tag, kind, formula = found.groups()
    display = "block" if kind == "[" else "inline"
    made = _spaced(convert(html.unescape(formula), display=display))
    return f'<{tag} class="formula">{made}</{tag}>'
