"""Results as cells would have left them, with numbers of our choice, to test sections on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure as Canvas

from torchrl_drpo.reproduction.simulator.runs import METHODS
from torchrl_drpo.reproduction.target import Cell, Options, Results, Section, Target

OPTIONS = Options(seeds=4, fresh_seeds=4)
#: Of the seeds around a mean: they add up to nothing, and cells have them in different orders.
OFFSETS = (-0.3, 0.1, 0.4, -0.2)
FLOOR, CEILING = 0.15, 0.45  # rewards of a random and of the best item
#: What a training cell records beside the reward, where a test does not say otherwise.
USUAL = {
    "retrieved_reward": 0.3,
    "raw_reward": 0.4,
    "action_distance": 1.0,
    "log_sigma": -0.2,
    "kappa": 0.2,
}
Numbers = Callable[[Cell], Mapping[str, float | None]]


def seeds_around(mean: float, turn: int = 0, spread: float = 1e-3) -> list[float]:
    """Four seeds whose mean is ``mean``; another order at every turn."""
    shift = (turn + turn // 4) % len(OFFSETS)  # cells often come in twos and fours
    return [mean + spread * o for o in (*OFFSETS[shift:], *OFFSETS[:shift])]


def seeds_of(value: float | None, turn: int) -> list[float | None]:
    """The same, or seeds of which one has broken down."""
    if value is None:
        return [None, *seeds_around(0.3, turn)[1:]]
    return list(seeds_around(value, turn))


def method_of(cell: Cell) -> str:
    """The method's name in reports."""
    return next(name for name, rule in METHODS.items() if rule == cell.settings["method"])


def trained(target: Target, numbers: Numbers, options: Options = OPTIONS) -> dict[str, Any]:
    """Results of a target whose cells are training runs.

    ``numbers`` says what a cell's late-window means are; ``random`` is the floor of its worlds.
    """
    results = {}
    for turn, cell in enumerate(target.cells(options)):
        given = {**USUAL, **numbers(cell)}
        floor = given.pop("random", FLOOR)
        results[cell.name] = {
            "settings": dict(cell.settings),
            "seconds": 1.0,
            "result": {
                "metrics": {name: seeds_of(value, turn) for name, value in given.items()},
                "curves": {name: [[1, 0.2], [2, value]] for name, value in given.items()},
                "ends": {"random": seeds_around(floor, turn), "oracle": seeds_around(CEILING)},
            },
        }
    return results


def verdicts(target: Target, results: Results, options: Options = OPTIONS) -> dict[str, str]:
    """By a claim's statement, the verdict."""
    return {c.statement: c.verdict for c in target.section(options, results).claims}


def draw(section: Section) -> list[Canvas]:
    """Draws every figure of a section."""
    drawn = []
    for figure in section.figures:
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        canvas.draw_without_rendering()
        drawn.append(canvas)
    return drawn


def rows_of(section: Section, table: int = 0) -> dict[str, list[str]]:
    """A table's rows by their first cell."""
    return {row[0]: list(row[1:]) for row in section.tables[table].rows}
