"""Fixed ratios on the published numbers, and on others."""

from __future__ import annotations

from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    draw,
    trained,
    verdicts,
)
from torchrl_drpo.reproduction.published import FIXED_RATIO
from torchrl_drpo.reproduction.simulator import sensitivity
from torchrl_drpo.reproduction.target import Cell


def by_ratio(turned: bool, edge: float = 0.1):
    """The published numbers (the top 5% ahead of the top 40% with exact rewards), or reversed."""

    def numbers(cell: Cell) -> dict[str, float]:
        changes = cell.settings["setup"]["changes"]
        at = changes["expert_noise"], changes["reward_noise"]
        ratio = cell.settings["method"]["kappa"]
        value = FIXED_RATIO[at][ratio] + edge * (ratio == 0.05 and at[1] == 0)
        return {"retrieved_reward": (3.0 - value if turned else value) / 5}

    return numbers


def test_fixed_ratios_as_published_hold_and_reversed_fail():
    as_published = trained(sensitivity.TARGET, by_ratio(turned=False))
    assert set(verdicts(sensitivity.TARGET, as_published).values()) == {"held"}
    turned = trained(sensitivity.TARGET, by_ratio(turned=True))
    assert set(verdicts(sensitivity.TARGET, turned).values()) == {"not held"}
    section = sensitivity.TARGET.section(OPTIONS, as_published)
    assert "top 5% against all rows is worth +0.44 ±" in section.text  # 1.69 + .1 - 1.35
    assert "and -0.07 ± " in section.text  # 1.06 - 1.13
    assert section.tables[0].rows[0][:4] == ["0.1", "0", "1.79 ± 0.00", "1.69"]
    assert [len(canvas.axes) for canvas in draw(section)] == [2]


def test_a_tie_is_no_win_for_the_smallest_ratio():
    found = verdicts(sensitivity.TARGET, trained(sensitivity.TARGET, by_ratio(False, edge=0.0)))
    best = "With exact rewards the top 5% is the best ratio, not worse than the top 40%"
    assert found.pop(best) == "not held"
    assert set(found.values()) == {"held"}
