"""Lists without replacement against their law, written out list by list."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchrl_drpo.functional.sampling import draw_lists, nucleus


def law(chance: list[float], k: int) -> dict[tuple[int, ...], float]:
    """The probability of every list of k different choices, one place after another."""
    out = {}
    for places in itertools.permutations(range(len(chance)), k):
        total, left = 1.0, sum(chance)
        for choice in places:
            total *= chance[choice] / left
            left -= chance[choice]
        out[places] = total
    return out


def test_lists_have_plackett_luce_s_law_and_say_so() -> None:
    chance = [0.5, 0.25, 0.15, 0.1]
    wanted = law(chance, 2)
    assert sum(wanted.values()) == pytest.approx(1)
    scores = torch.tensor(chance).log().expand(200_000, 4) + 7.0  # normalised or not
    drawn = draw_lists(scores, 2, torch.Generator().manual_seed(0))
    count: dict[tuple[int, ...], int] = {}
    for places in map(tuple, drawn.indices.tolist()):
        count[places] = count.get(places, 0) + 1
    for places, probability in wanted.items():
        error = math.sqrt(probability * (1 - probability) / len(scores))
        assert count[places] / len(scores) == pytest.approx(probability, abs=5 * error), places
        one = (drawn.indices == torch.tensor(places)).all(-1).nonzero()[0]
        assert float(drawn.log_probs[one].sum().exp()) == pytest.approx(probability, rel=1e-6)


def test_the_last_places_keep_their_digits() -> None:
    scores = torch.tensor([[60.0, 0.0, math.log(3.0), -math.inf]], dtype=torch.double)
    drawn = draw_lists(scores, 4, torch.Generator().manual_seed(3))
    assert drawn.indices[0, 0] == 0  # all but 5e-26 of the probability
    second = {1: 0.25, 2: 0.75}[int(drawn.indices[0, 1])]
    assert drawn.log_probs[0].exp().tolist() == pytest.approx([1.0, second, 1.0, 0.0], rel=1e-12)
    assert drawn.indices[0, 3] == -1  # nothing is left for it


def test_the_nucleus_is_the_smallest_set_that_reaches_it() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(50, 9, generator=generator) * 2
    for top_p in (0.05, 0.5, 0.9, 0.999):
        kept = nucleus(scores, top_p)
        for row, mine in zip(scores.double().softmax(-1).tolist(), kept.tolist(), strict=True):
            order = sorted(range(9), key=lambda item: -row[item])
            size = next(n for n in range(1, 10) if sum(row[i] for i in order[:n]) >= top_p - 1e-12)
            assert {i for i in range(9) if mine[i] > -math.inf} == set(order[:size])
    assert torch.equal(nucleus(scores, 1.0), scores)
    assert ((nucleus(scores, 0.01, least=4) > -math.inf).sum(-1) == 4).all()


@pytest.mark.parametrize("top_p", [0.0, 1.5, -1.0])
def test_what_is_out_of_range_is_refused(top_p: float) -> None:
    with pytest.raises(ValueError, match="top_p must lie in"):
        nucleus(torch.zeros(3), top_p)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 3\], got 4"):
        draw_lists(torch.zeros(3), 4)
    with pytest.raises(ValueError, match="least must be at least 1"):
        nucleus(torch.zeros(3), 0.5, least=0)
