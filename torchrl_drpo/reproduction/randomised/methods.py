"""The methods of ``randomised``: rankings, trained policies, tilted and conditioned policies.

Each is a path along one parameter of its own, from which the choosing users choose. The parameter
of a loss needs a training run a value, that of serving (tau, guidance) none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["ranking", "policy", "tilt", "conditioned", "conditioned and tilted"]


@dataclass(frozen=True)
class Method:
    """A family along one parameter.

    Attributes:
        name: what it is called in tables.
        kind: what is served: a ranking, a trained policy, one tilted by the reward model, one
            that is conditioned on quality and guided, or both.
        parameter: what its parameter is called; empty for a method without one.
        values: of the parameter, in order; one ``None`` for a method without.
        objective: by which a policy is trained, as ``drpo train --objectives`` has it.
        option: the option of the objective that is the parameter.
        base: of a tilt, the method whose policy it tilts, at the first value of its parameter; a
            conditioned one is tilted at the command's guidance.
        away: of a conditioned policy, the level of quality that it is guided away from; -1 for
            that of all rows.
    """

    name: str
    kind: Kind
    parameter: str = ""
    values: tuple[Any, ...] = (None,)
    objective: str = ""
    option: str = ""
    base: str = ""
    away: int = 0

    def label(self, value: Any) -> str:
        """The method at a value, for a table.

        Example:
            >>> METHODS["DRPO"].label(0.25), METHODS["BC"].label(None)
            ('DRPO, kappa 0.25', 'BC')
        """
        if not self.parameter:
            return self.name
        given = "adaptive" if value is None else value
        return f"{self.name}, {self.parameter} {given if isinstance(given, str) else f'{given:g}'}"


@dataclass(frozen=True)
class Job:
    """A training run, and all that is served of it.

    Attributes:
        objective: see :class:`Method`.
        options: of the objective, where they are not its own.
        conditioned: whether quality is one more input.
        serves: methods with a value of their parameter.
    """

    objective: str
    options: Mapping[str, Any]
    conditioned: bool
    serves: tuple[tuple[Method, Any], ...]


def jobs() -> Iterator[Job]:
    """The training runs of a seed."""
    for method in METHODS.values():
        if method.kind != "policy":
            continue
        tilts = [tilt for tilt in METHODS.values() if tilt.base == method.name]
        for value in method.values:
            # What is tilted is the base as `drpo train` trains it.
            tilted = [(t, tau) for t in tilts for tau in t.values if value == method.values[0]]
            options = {method.option: value} if method.option else {}
            yield Job(method.objective, options, False, ((method, value), *tilted))
    guided = [(m, v) for m in METHODS.values() if "conditioned" in m.kind for v in m.values]
    yield Job("bc", {}, True, tuple(guided))


#: Of the tilt, in units of quality, from weak to strong.
TAUS = (0.3, 0.15, 0.08, 0.04, 0.02)
#: Of the conditioned policy; at 0 nothing is guided away from.
GUIDANCE = (0.0, 0.5, 1.0, 2.0, 4.0)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("random", "ranking"),
        Method("popularity", "ranking"),
        Method("item mean", "ranking", "prior rows", (1.0, 5.0, 20.0)),
        Method("reward model alone", "ranking"),
        Method("BC", "policy", objective="bc"),
        Method(
            "positive-only", "policy", "baseline", ("mean", 0.5, 0.75), "positive-only", "baseline"
        ),
        Method("DRPO", "policy", "kappa", (None, 0.5, 0.25), "drpo", "kappa"),
        Method("tapered", "policy", "strength", (4.0, 1.0, 0.25), "tapered", "taper_strength"),
        Method("DRPO-Q", "policy", "kappa", (None, 0.5, 0.25), "drpo-q", "kappa"),
        Method("BC, tilted", "tilt", "tau", TAUS, base="BC"),
        Method("positive-only, tilted", "tilt", "tau", TAUS, base="positive-only"),
        Method("DRPO, tilted", "tilt", "tau", TAUS, base="DRPO"),
        Method("conditioned", "conditioned", "guidance", GUIDANCE),
        Method("conditioned, tilted", "conditioned and tilted", "tau", TAUS, base="conditioned"),
        Method("conditioned, from all", "conditioned", "guidance", GUIDANCE[1:], away=-1),
    )
}
#: What goes beyond a trained policy: one of these should win.
NEW = ("tilt", "conditioned", "conditioned and tilted")
#: What a winner has to beat: all that the product offered before.
OPPONENTS = (
    "positive-only",
    "DRPO",
    "tapered",
    "DRPO-Q",
    "reward model alone",
    "item mean",
    "BC",
    "popularity",
    "random",
)
