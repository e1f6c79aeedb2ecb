"""CodeTrie against prefixes in a dict."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.distributions.code_trie.reference import INDEXES, V, catalogue, ranks, real_codes
from torchrl_drpo.distributions.code_trie import CodeTrie


def walked(trie: CodeTrie) -> dict[tuple[int, ...], list[int]]:
    """All items by their codes, found by going down from the root."""
    found: dict[tuple[int, ...], list[int]] = {}

    def down(node: int, level: int, path: tuple[int, ...]) -> None:
        children = trie.children_of(torch.tensor(node), level)
        valid = children.valid
        if level == trie.num_levels:
            found[path] = sorted(trie.items(children.node[valid]).tolist())
            return
        codes = children.code[valid].tolist()
        assert codes == sorted(set(codes))
        for child, code in zip(children.node[valid].tolist(), codes, strict=True):
            down(child, level + 1, (*path, code))

    down(0, 0, ())
    return found


def grouped(codes: torch.Tensor) -> dict[tuple[int, ...], list[int]]:
    out: dict[tuple[int, ...], list[int]] = {}
    for item, path in enumerate(ranks(codes)):
        out.setdefault(path, []).append(item)
    return out


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 4).flatmap(
        lambda levels: st.lists(
            st.lists(
                st.sampled_from([0, 1, 2, 9, 70_000, 2**40]), min_size=levels, max_size=levels
            ).flatmap(
                lambda path: st.integers(0, len(path)).map(
                    lambda end: path[:end] + [-1] * (len(path) - end)
                )
            ),
            min_size=1,
            max_size=30,
        )
    )
)
def test_the_walk_from_the_root_finds_every_item_behind_its_codes(rows):
    codes = torch.tensor(rows)
    trie = CodeTrie(codes)
    assert walked(trie) == grouped(codes)
    item = torch.arange(len(codes))
    *nodes, place = trie.path(item)
    assert torch.equal(trie.items(place), item)
    for level, node in enumerate(nodes):
        assert trie.code_of_each(level)[node].tolist() == [path[level] for path in ranks(codes)]
        begin, end = trie.spans(node, level)
        prefixes = [path[: level + 1] for path in ranks(codes)]
        below = [prefixes.count(prefix) for prefix in prefixes]
        assert (end - begin).tolist() == below
    assert trie.num_inner_nodes == len(
        {path[:k] for path in ranks(codes) for k in range(len(path))}
    )


def test_a_restricted_trie_keeps_numbers_and_codes():
    trie = CodeTrie(catalogue())
    some = torch.tensor([3, 5, 5, 17, 30])
    kept = trie.restrict(some)
    wanted = {
        path: [i for i in items if i in {3, 5, 17, 30}] for path, items in walked(trie).items()
    }
    assert walked(kept) == {path: items for path, items in wanted.items() if items}
    with pytest.raises(ValueError, match=r"\[0, 40\), got 40"):
        trie.restrict(torch.tensor([40]))
    with pytest.raises(ValueError, match="none at all"):
        trie.restrict(torch.tensor([], dtype=torch.long))


def test_codes_alone_travel_in_a_state_dict():
    trie = CodeTrie(catalogue())
    assert list(trie.state_dict()) == ["codes"]
    assert trie.codes.dtype == torch.int32
    loaded = CodeTrie(None, num_items=V, sizes=trie.sizes)
    with pytest.raises(RuntimeError, match="must be loaded first"):
        loaded.num_nodes(0)
    loaded.load_state_dict(trie.state_dict())
    assert walked(loaded) == walked(trie) == walked(copy.deepcopy(trie))
    other = CodeTrie(None, num_items=V, sizes=(2, 2, 2))
    with pytest.raises(RuntimeError, match=r"made for \(2, 2, 2\)"):
        other.load_state_dict(trie.state_dict())
    broken = catalogue()
    broken[0] = torch.tensor([1, -1, 1])
    with pytest.raises(RuntimeError, match="go on behind their end"):
        loaded.load_state_dict({"codes": broken})


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3), "codes must be integers"),
        (torch.zeros(3, dtype=torch.long), "codes must be integers"),
        (torch.zeros(0, 3, dtype=torch.long), "codes must be integers"),
        (torch.tensor([[0, 0], [-1, 4]]), "item 1 go on behind their end"),
        (None, "num_items and sizes"),
    ],
)
def test_what_makes_no_trie_is_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        CodeTrie(codes)


@pytest.mark.skipif(not INDEXES, reason="needs real logs")
@pytest.mark.parametrize("path", INDEXES, ids=lambda path: path.name.split("_")[0])
def test_real_indexes(path):
    """Sizes and collisions as their README counts them."""
    codes = real_codes(path)
    trie = CodeTrie(codes)
    counted = {"Industrial": (3686, 31), "Office": (3459, 30)}[path.name.split("_")[0]]
    assert (trie.num_items, trie.collisions) == counted
    assert walked(trie) == grouped(codes)
