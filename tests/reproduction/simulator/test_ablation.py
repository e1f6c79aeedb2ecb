"""The ablation on the published numbers, and on others."""

from __future__ import annotations

from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    draw,
    rows_of,
    trained,
    verdicts,
)
from torchrl_drpo.reproduction.published import ABLATION
from torchrl_drpo.reproduction.simulator import ablation
from torchrl_drpo.reproduction.target import Cell


def by_row(**ecpm: float):
    def numbers(cell: Cell) -> dict[str, float]:
        known = {ablation._name(s, row): row for s in ablation.SETTINGS for row in ablation.ROWS}
        row = known.get(cell.name)
        return {} if row is None else {"retrieved_reward": ecpm[row.replace(" ", "_")] / 5}

    return numbers


def paper(**over: float) -> dict[str, float]:
    return {row.replace(" ", "_"): value for row, value in ABLATION.items()} | over


def test_the_ablation_as_published_holds():
    results = trained(ablation.TARGET, by_row(**paper()))
    found = verdicts(ablation.TARGET, results)
    assert set(found.values()) == {"held"}
    section = ablation.TARGET.section(OPTIONS, results)
    assert "worth +0.022 ±" in section.text  # (1.42 - 1.31) / 5
    assert "not what does the work" not in section.text
    assert rows_of(section)["soft base"][:2] == ["1.15", "1.15 ± 0.00"]
    assert [len(canvas.axes) for canvas in draw(section)] == [2]


def test_an_ablation_turned_round_fails():
    rows = dict(zip(paper(), (1.4, 1.3, 1.2, 1.1), strict=True))
    results = trained(ablation.TARGET, by_row(**rows))
    assert set(verdicts(ablation.TARGET, results).values()) == {"not held"}
    text = ablation.TARGET.section(OPTIONS, results).text
    assert "worth -0.020 ±" in text
    assert "the adaptation is not what does the work" in text


def test_an_ablation_of_one_setting_holds_in_part():
    right = by_row(**paper())
    wrong = by_row(**dict(zip(paper(), (1.4, 1.3, 1.2, 1.1), strict=True)))
    results = trained(
        ablation.TARGET, lambda cell: (right if cell.name.startswith("table") else wrong)(cell)
    )
    assert set(verdicts(ablation.TARGET, results).values()) == {"held in part"}
