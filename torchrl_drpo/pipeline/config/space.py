"""What ``drpo tune`` searches: ranges and choices of options and settings, as they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torchrl_drpo.pipeline.objectives.named import Objective, find_objective
from torchrl_drpo.pipeline.objectives.options import DRPOOptions, RepulsiveOptions
from torchrl_drpo.spelling import did_you_mean

if TYPE_CHECKING:
    from torchrl_drpo.pipeline.config.train import TrainConfig

#: Settings of a run that can be searched beside the objective's options; the types of their values.
SETTINGS: dict[str, type] = {
    "learning_rate": float,
    "weight_decay": float,
    "max_grad_norm": float,
    "batch_size": int,
}
#: The same of the policy's shape.
SHAPE: dict[str, type] = {"dim": int, "dropout": float, "layers": int}
#: What is searched of the options that have a range, where nobody says.
_USUAL = {
    "kappa": "0.05..1",
    "temperature": "0.02..2:log",
    "negative_scale": "0.02..2:log",
    "shift": "-0.5..0.5",
    "negative_weight": "0..1",
    "tau": "0.02..1:log",
    "guidance": "0..4",
    "unknown": "0.02..0.4",
}
_LEARNING_RATE = "learning_rate=0.0003..0.03:log"


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    Attributes:
        name: an option of the objective (``drpo.kappa``), or a setting (``learning_rate``).
        low: smallest value; of a range.
        high: largest value.
        log: whether its logarithm is what is searched evenly.
        whole: whether values are whole numbers.
        choices: the only values, as they are written; empty for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all others when they are checked."""
        return self.choices or (self.low, self.high)

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(self.choices)}"
        return f"{self.name}={self.low:g}..{self.high:g}{':log' if self.log else ''}"


def dimension(text: str, objective: str) -> Dimension:
    """A dimension as a command line writes it.

    Args:
        text: ``NAME=LOW..HIGH``, the same with ``:log``, or ``NAME=A,B,C``.
        objective: which is tuned; a name with a dot is an option of it.

    Raises:
        ValueError: for a text of another form, a name that cannot be searched, or an empty range.

    Examples:
        >>> dimension("drpo.kappa=0.05..0.5", "drpo")
        Dimension(name='drpo.kappa', low=0.05, high=0.5, log=False, whole=False, choices=())
        >>> str(dimension("batch_size=256..4096:log", "drpo"))
        'batch_size=256..4096:log'
        >>> dimension("drpo.weighting=linear,kl", "drpo").choices
        ('linear', 'kl')
    """
    name, equals, said = text.partition("=")
    name = name.strip().replace("-", "_") if "." not in name else name.strip()
    if not (name and equals and said.strip()):
        raise ValueError(
            f"--space takes NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B, such as "
            f"drpo.kappa=0.05..0.5, got {text!r}"
        )
    known = SETTINGS | SHAPE
    if "." not in name and name not in known:
        options = _options_of(objective)
        hint = did_you_mean(name, known) or did_you_mean(f"{objective}.{name}", options)
        raise ValueError(
            f"--space {text}: nothing that can be searched is called {name!r}{hint}; there are "
            f"{', '.join((*known, *options))}"
        )
    low, dots, high = said.partition("..")
    if not dots:
        return Dimension(name, choices=tuple(each.strip() for each in said.split(",")))
    high, _, kind = high.partition(":")
    if kind not in ("", "log"):
        raise ValueError(f"--space {text}: a range ends with nothing or :log, got {kind!r}")
    try:
        found = Dimension(name, float(low), float(high), kind == "log", known.get(name) is int)
    except ValueError:
        raise ValueError(
            f"--space {text}: expected two numbers, got {low!r} and {high!r}"
        ) from None
    if not -math.inf < found.low < found.high < math.inf:
        raise ValueError(f"--space {text}: the first number must be the smaller one")
    if found.log and found.low <= 0:
        raise ValueError(f"--space {text}: a range by :log begins above 0")
    if found.whole and not (found.low.is_integer() and found.high.is_integer()):
        raise ValueError(f"--space {text}: {name} is a whole number")
    return found


def space_of(texts: Sequence[str], objective: str, chosen: Objective) -> tuple[Dimension, ...]:
    """What is searched: what is asked for, else the usual of an objective.

    Raises:
        ValueError: as :func:`dimension`, or for a name that stands there twice.
    """
    found = tuple(dimension(text, objective) for text in texts or usual(objective, chosen))
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"--space names {twice} twice")
    return found


def usual(name: str, objective: Objective) -> list[str]:
    """What is searched of an objective where nobody says: its numbers that count, and the rate.

    Example:
        >>> usual("drpo-tilt", find_objective("drpo-tilt"))
        ['drpo-tilt.kappa=0.05..1', 'drpo-tilt.tau=0.02..1:log', 'learning_rate=0.0003..0.03:log']
    """
    parts = (objective.options, objective.condition, objective.tilt)
    options = [option for part in parts if part is not None for option in vars(part)]
    counts = [option for option in options if option in _USUAL and _counts(option, objective)]
    return [*(f"{name}.{option}={_USUAL[option]}" for option in counts), _LEARNING_RATE]


def _counts(option: str, objective: Objective) -> bool:
    """Whether an option makes a difference, and leaves the objective what its name says."""
    own = objective.options
    if option == "temperature" and isinstance(own, DRPOOptions):
        return own.weighting in ("exponential", "kl")
    if option == "negative_scale" and isinstance(own, DRPOOptions):
        return own.taper != "none"
    if option == "negative_scale" and isinstance(own, RepulsiveOptions):
        return own.negative_scale > 0
    return True


def _options_of(name: str) -> list[str]:
    objective = find_objective(name)
    parts = (objective.options, objective.condition, objective.tilt)
    return [f"{name}.{option}" for part in parts if part is not None for option in vars(part)]


def applied(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    """The settings with values of some dimensions.

    Raises:
        ValueError: for a value that the settings or the objective refuse.
    """
    own = {name: _typed(name, value) for name, value in values.items() if "." not in name}
    options = tuple(f"{name}={value}" for name, value in values.items() if "." in name)
    shape = {name: value for name, value in own.items() if name in SHAPE}
    settings = {name: value for name, value in own.items() if name in SETTINGS}
    model = replace(config.model, **shape)
    return replace(config, **settings, model=model, set=(*config.set, *options))


def _typed(name: str, value: Any) -> Any:
    kind = (SETTINGS | SHAPE)[name]
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"--space {name}: expected numbers, got {value!r}") from None
