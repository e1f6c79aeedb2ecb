"""One name and one colour a method, in every table and figure of the project.

Keys are those of ``drpo train --objectives``, then those of methods that are only compared with.
The signed loss is called APG, the paper's name of it. The colours start from those of Okabe and
Ito; no two methods share one, but for variants that read another quality signal (``-q``: a reward
model's prediction, ``-a``: its advantage) or are served otherwise (``-tilt``): they have their
base's colour and lines of their own.
"""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """How a method is shown.

    Attributes:
        name: in tables and legends.
        colour: as ``#RRGGBB``.
        line: matplotlib's line style.
    """

    name: str
    colour: str
    line: str = "-"


_BC, _POSITIVE, _TAPERED, _DRPO = "#56B4E9", "#E69F00", "#0072B2", "#009E73"
_CONDITIONED = "#D000D0"

METHODS: dict[str, Method] = {
    # of the command
    "bc": Method("BC", _BC),
    "drpo": Method("DRPO", _DRPO),
    "drpo-exponential": Method("DRPO-Exp", "#1B4D3E"),
    "drpo-kl": Method("DRPO, exact kl weights", "#4DAC26"),
    "drpo-tapered": Method("DRPO + taper", "#A6D854"),
    "adaptive-bc": Method("Adaptive BC", "#66C2A5"),
    "positive-only": Method("positive-only", _POSITIVE),
    "signed": Method("APG", "#D55E00"),
    "tapered": Method("tapered", _TAPERED),
    "awr": Method("AWR", "#8C6D31"),
    "reward-weighted": Method("reward-weighted", "#4B2DD2"),
    "crr": Method("CRR", "#C49C94"),
    "asymre": Method("AsymRE", "#7F3C8D"),
    "gbpo": Method("GBPO", "#7F7F00"),
    "guided": Method("guided", "#00B7C7"),
    "taper-q": Method("taper-Q", _TAPERED, "--"),
    "positive-only-q": Method("positive-only-Q", _POSITIVE, "--"),
    "drpo-q": Method("DRPO-Q, cross-fitted", _DRPO, "--"),
    "taper-a": Method("taper-A", _TAPERED, ":"),
    "positive-only-a": Method("positive-only-A", _POSITIVE, ":"),
    "drpo-a": Method("DRPO-A", _DRPO, ":"),
    "uphill": Method("uphill positive-only", "#C2003A"),
    "uphill-tapered": Method("uphill tapered", "#8E0152"),
    # the same policies, tilted by a reward model or conditioned on quality at serving
    "bc-tilt": Method("BC-tilt", _BC, "-."),
    "positive-only-tilt": Method("positive-only-tilt", _POSITIVE, "-."),
    "drpo-tilt": Method("DRPO-tilt", _DRPO, "-."),
    "conditioned": Method("conditioned", _CONDITIONED),
    "conditioned-tilt": Method("conditioned-tilt", _CONDITIONED, "-."),
    # of the paper's comparisons
    "bppo": Method("BPPO", "#CC79A7"),
    "iql": Method("IQL", "#BDB400"),
    "topr": Method("TOPR", "#332288"),
    # controls of the negatives
    "global-scale": Method("global scale", "#F28E8E"),
    "reciprocal-linear": Method("reciprocal, linear", "#9ECAE1"),
    "reciprocal-quadratic": Method("reciprocal, quadratic", "#08306B"),
    "cut-off": Method("hard cut-off", "#525252"),
    # forms of a filter with explicit dislikes
    "top-fraction": Method("top kappa, uniform", "#117733"),
    "top-hated": Method("top quarter + hated", "#E7298A"),
    "top-worst-taper": Method("top quarter + worst, taper", "#B09FD0"),
    "top-worst-gbpo": Method("top quarter + worst, GBPO", "#D9A679"),
    # what no policy learns
    "random": Method("random", "#999999"),
    "popularity": Method("popularity", "#7A6652"),
    "recent-popularity": Method("recent popularity", "#7A6652", "--"),
    "co-occurrence": Method("co-occurrence", "#9D4328"),
    "item-knn": Method("item-kNN", "#CAD994"),
    "oracle": Method("oracle", "#000000"),
}
_BY_NAME = {method.name: method for method in METHODS.values()}
#: For methods of users' own, which have names of theirs.
OWN = ("#A05195", "#003F5C", "#665191", "#2F4B7C")
#: For what is no method (settings, modes, ratios, a closed form and what was measured).
SERIES = ("#4477AA", "#EE7733", "#AA3377", "#B8A9C9", "#6D597A", "#B56576", "#355070")


def method(which: str) -> Method:
    """The method of a key, or of a name as it is shown.

    Raises:
        KeyError: for neither.

    Example:
        >>> method("mymodule:MyLoss").name
        'MyLoss'
        >>> method("signed").name, method("APG").colour
        ('APG', '#D55E00')
    """
    found = METHODS.get(which) or _BY_NAME.get(which)
    if found is None and ":" in which:  # a user's own, by reference
        shown = which.rpartition(":")[2]
        return Method(shown, OWN[sum(map(ord, which)) % len(OWN)], "--")
    if found is None:
        raise KeyError(
            f"no method is called {which!r}; give it a name and a colour in report/methods.py, "
            f"beside {', '.join(METHODS)}"
        )
    return found
