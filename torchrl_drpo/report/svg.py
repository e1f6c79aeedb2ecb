"""Figures as SVG inside a page: small, sharp, and in the page's own colours, light or dark.

A figure draws itself as for :mod:`~torchrl_drpo.report.images`. Its ink and grid become the page's,
and every other colour a variable of the page, which :func:`colours_css` gives two values: the
colour itself, and one light enough for dark paper. Texts stay texts, in the reader's own font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable

from torchrl_drpo.report.html import plain
from torchrl_drpo.report.images import Figure
from torchrl_drpo.report.methods import Method

#: Colours that are the page's own; matplotlib draws with the keys.
INK, GRID, PAPER = "#010203", "#eeeeee", "#ffffff"
_OWN = {INK: "currentColor", GRID: "var(--line)", PAPER: "var(--paper)"}
#: Least contrast of a line with dark paper (WCAG 2.2, 1.4.11), and that paper.
_CONTRAST, _DARK = 3.0, "#15181b"

#: For pages with figures, beside :data:`~torchrl_drpo.report.html.STYLE`.
STYLE = """
.panels { display: grid; gap: 1rem 1.5rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.panels figure, figure.plot { margin: 0; min-width: 0; max-width: 34rem; }
.plot figcaption { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.plot svg { display: block; width: 100%; height: auto; }
.plot svg text { font-family: system-ui, sans-serif !important; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0;
  font-size: .875rem; }
.legend svg, td svg { width: 2rem; height: .8rem; margin-right: .4rem; vertical-align: -.1rem; }
"""

_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from logs: "$x" is no formula
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": ["DejaVu Sans"],  # wider than most: what fits it fits the reader's
    "font.size": 10.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "path.simplify": True,
}
_MARKERS = {
    "o": '<circle cx="16" cy="6" r="3.6"{}/>',
    "^": '<path d="M16 2 20 10H12z"{}/>',
    "v": '<path d="M16 10 20 2H12z"{}/>',
    "D": '<path d="M16 1.5 20.5 6 16 10.5 11.5 6z"{}/>',
    "s": '<rect x="12.5" y="2.5" width="7" height="7"{}/>',
    "P": '<path d="M14.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"{}/>',
}
_DASHES = {"-": "", "--": ' stroke-dasharray="6 3"', ":": ' stroke-dasharray="2 2.4"'}
_DASHES["-."] = ' stroke-dasharray="7 2.5 2 2.5"'


def svg(figure: Figure) -> str:
    """Draws a figure as an ``<svg>`` of HTML, as wide as its place.

    Returns:
        The same text for the same numbers. It names the figure's caption for readers who do not
        see, has no identifiers but those that it refers to, and refers to nothing else.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    out = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": figure.name}), warnings.catch_warnings():
        # Of scripts that DejaVu lacks; the reader's font has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasSVG(canvas)
        figure.draw(canvas)
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _of_the_page(out.getvalue(), figure.caption)


def figure_html(figure: Figure, title: str = "") -> str:
    """The figure drawn, under a title in plain text (its caption by default)."""
    return (
        f'<figure class="plot"><figcaption>{plain(title or figure.caption)}</figcaption>'
        f"{svg(figure)}</figure>"
    )


def swatch(method: Method, *, marker: str = "", filled: bool = True) -> str:
    """A method's line (or its marker alone) for a legend, as HTML."""
    colour = variable(method.colour)
    if not marker:
        dash = _DASHES[method.line]
        drawn = f'<path d="M0 6H32" stroke="{colour}" stroke-width="2.5"{dash}/>'
    else:
        inside = colour if filled else "var(--paper)"
        drawn = _MARKERS[marker].format(f' fill="{inside}" stroke="{colour}" stroke-width="1.6"')
    return f'<svg viewBox="0 0 32 12" aria-hidden="true">{drawn}</svg>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """A legend beside its figures: what :func:`swatch` drew, and plain texts."""
    items = "".join(f"<li>{drawn}{plain(text)}</li>" for drawn, text in entries)
    return f'<ul class="legend">{items}</ul>'


def variable(colour: str) -> str:
    """How a page writes a colour that :func:`colours_css` knows."""
    return f"var(--c-{colour.lower().removeprefix('#')})"


def colours_css(html: str) -> str:
    """The variables of all colours in a page's HTML, for light and for dark paper."""
    used = sorted(set(re.findall(r"var\(--c-([0-9a-f]{6})\)", html)))
    light = " ".join(f"--c-{each}: #{each};" for each in used)
    dark = " ".join(f"--c-{each}: {on_dark('#' + each)};" for each in used)
    return (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        if used
        else ""
    )


def on_dark(colour: str) -> str:
    """A colour mixed with as much white as its contrast with dark paper needs.

    Example:
        >>> on_dark("#E69F00"), on_dark("#000000")
        ('#e69f00', '#666666')
    """
    levels = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    for white in range(101):
        mixed = [round(level + (255 - level) * white / 100) for level in levels]
        found = "#" + "".join(f"{level:02x}" for level in mixed)
        if contrast(found, _DARK) >= _CONTRAST:
            break
    return found


def contrast(one: str, other: str) -> float:
    """Contrast of two colours by WCAG 2.2, in [1, 21].

    Example:
        >>> contrast("#000000", "#ffffff")
        21.0
    """
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    levels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return sum(share * v for share, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _of_the_page(text: str, caption: str) -> str:
    """The file of matplotlib as a part of an HTML page."""
    text = text[text.index("<svg") :]
    for left in (r"<!--.*?-->", r"<metadata>.*?</metadata>"):
        text = re.sub(left, "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # those that nothing refers to
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # matplotlib writes one
    head = f'<svg {box.group()} role="img" aria-label="{plain(caption)}">'
    text = head + text[text.index(">") + 1 :]
    # Texts hold no "<": what stands between angles are tags.
    return re.sub(r"<[^>]*>", lambda tag: _coloured(tag.group()), text).strip()


def _coloured(tag: str) -> str:
    def known(found: re.Match[str]) -> str:
        colour = found.group(2)
        return found.group(1) + _OWN.get(colour, variable(colour))

    return re.sub(r"((?:fill|stroke): )(#[0-9a-f]{6})", known, tag)
