"""The sharded catalogue: what one process says with the whole table, on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.distributed.gloo import cut, run_ranks
from torchrl_drpo.distributed.categorical import ShardedCatalogueCategorical
from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.items import ItemShards
from torchrl_drpo.distributions import CatalogueCategorical

#: V, D, N, type, bias, temperature; 1 item leaves all ranks but one without any.
CASES = [
    (1000, 16, 64, torch.float64, True, 0.7),
    (1003, 32, 65, torch.float32, True, 1.0),
    (3, 8, 33, torch.float64, True, 2.0),
    (1, 8, 9, torch.float32, False, 1.0),
    (9001, 24, 40, torch.float32, True, 1.0),
]
#: Of a value, or of the terms that a gradient sums (of 1 where these are less).
ATOL = {torch.float64: 1e-12, torch.float32: 1e-6}


def _case(number: int) -> dict[str, Tensor]:
    v, d, n, dtype, bias, _ = CASES[number]
    g = torch.Generator().manual_seed(number)
    return {
        "hidden": torch.randn(n, d, generator=g, dtype=dtype),
        "items": torch.randn(v, d, generator=g, dtype=dtype) * d**-0.5,
        "bias": torch.randn(v, generator=g, dtype=dtype) if bias else torch.zeros(v, dtype=dtype),
        "action": torch.randint(0, v, (n,), generator=g),
        "several": torch.randint(0, v, (4, n), generator=g),
        "history": torch.randint(0, v, (n, 5), generator=g),
        "slope": torch.randn(n, generator=g, dtype=dtype),
    }


QUESTIONS = ("log_prob", "several", "entropy", "logits", "lookup")


def _answer(policy: Any, question: str, case: dict[str, Tensor], lookup: Any) -> Tensor:
    """One number a row."""
    if question == "log_prob":
        return policy.log_prob(case["action"])
    if question == "several":
        return policy.log_prob(case["several"]).sum(0)
    if question == "entropy":
        return policy.entropy()
    if question == "logits":
        return policy.logits.gather(1, case["action"][:, None])[:, 0]
    return (lookup(case["history"]) * policy.hidden[:, None]).sum((1, 2))


def _ask(policy: Any, case: dict[str, Tensor], leaves: list[Tensor], lookup: Any) -> dict[str, Any]:
    found = {}
    for question in QUESTIONS:
        for leaf in leaves:
            leaf.grad = None
        values = _answer(policy, question, case, lookup)
        (values * case["slope"]).sum().backward()
        zeros = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
        found[question] = [values.detach(), *zeros]
    k = min(7, policy.num_items)
    top = policy.topk(k)
    return found | {"topk": list(top), "mode": [policy.mode]}


def _on_ranks(rank: int, size: int) -> list[dict[str, Any]]:
    ranks, found = Ranks(dist.group.WORLD), []
    for number, (v, _, n, _, bias, temperature) in enumerate(CASES):
        shards, own = ItemShards(ranks, v), cut(n, size, number)[rank]
        whole = _case(number)
        case = {k: x[:, own] if k == "several" else x[own] for k, x in whole.items()}
        leaves = [whole["hidden"][own].clone().requires_grad_()]
        leaves += [
            whole[k][shards.low : shards.high].clone().requires_grad_() for k in ("items", "bias")
        ]
        hidden, items, row = leaves
        policy = ShardedCatalogueCategorical(
            hidden, items, row if bias else None, temperature, shards=shards
        )
        asked = _ask(policy, case, leaves, lambda ids, s=shards, t=items: s.look_up(t, ids))
        found.append({k: list(v) for k, v in asked.items()})
    return found


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_sharded_catalogue_says_what_the_whole_one_says(size: int, tmp_path: Path):
    found = run_ranks(_on_ranks, size, tmp_path)
    for number, (v, _, n, _, bias, temperature) in enumerate(CASES):
        case, cuts = _case(number), cut(n, size, number)
        leaves = [case[k].clone().requires_grad_() for k in ("hidden", "items", "bias")]
        policy = CatalogueCategorical(
            leaves[0], leaves[1], leaves[2] if bias else None, temperature
        )
        whole = _ask(policy, case, leaves, lambda ids, t=leaves[1]: t[ids])
        length = -(-v // size)
        for rank, own in enumerate(cuts):
            items = slice(min(rank * length, v), min((rank + 1) * length, v))
            answers = found[rank][number]
            for question in QUESTIONS:
                want, where = whole[question], f"case {number}, {question}, rank {rank}"
                _is_close(answers[question][0], want[0][own], want[0][own].abs(), where)
                for i, part in enumerate((own, items, items), 1):
                    # Gradients of tables are means over ranks, as DDP's of everything else are.
                    one = answers[question][i] * (size if i > 1 else 1)
                    _is_close(one, want[i][part], _summed(case, want[i]), where)
            values, want = answers["topk"][0], whole["topk"][0][own]
            _is_close(values, want, want.abs(), f"case {number}, top-k")
            assert torch.equal(answers["topk"][1], whole["topk"][1][own])
            assert torch.equal(answers["mode"][0], whole["mode"][0][own])


def _summed(case: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """What a gradient's entries are the sums of, 0-d: where these cancel, their rounding stays."""
    terms = (case["slope"].abs() @ case["hidden"].abs()).max()
    return torch.maximum(terms, gradient.abs().max()) if gradient.numel() else terms


def _is_close(got: Tensor, want: Tensor, scale: Tensor, where: str) -> None:
    """Equal but for ATOL of ``scale``, of 1 where that is less."""
    off = (got - want).abs() / scale.clamp_min(1)
    assert off.numel() == 0 or off.max() <= ATOL[want.dtype], f"{where}: off by {off.max():.1e}"


def _in_half_precision(rank: int, size: int) -> dict[str, Tensor]:
    case, shards = _case(0), ItemShards(Ranks(dist.group.WORLD), CASES[0][0])
    own, rows = slice(32 * rank, 32 * rank + 32), slice(shards.low, shards.high)
    hidden = case["hidden"][own].bfloat16().requires_grad_()
    items = case["items"][rows].bfloat16().requires_grad_()
    policy = ShardedCatalogueCategorical(hidden, items, shards=shards)
    log_prob = policy.log_prob(case["action"][own])
    log_prob.sum().backward()
    return {"log_prob": log_prob.detach(), "hidden": hidden.grad, "items": items.grad * size}


def test_half_precision_is_summed_in_float32(tmp_path: Path):
    case = _case(0)
    hidden = case["hidden"].bfloat16().float().requires_grad_()
    items = case["items"].bfloat16().float().requires_grad_()
    exact = CatalogueCategorical(hidden, items).log_prob(case["action"])
    exact.sum().backward()
    found = run_ranks(_in_half_precision, 2, tmp_path)
    log_prob, d_hidden, d_items = (
        torch.cat([part[name] for part in found]) for name in ("log_prob", "hidden", "items")
    )
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, exact, rtol=1e-5, atol=1e-5)
    for got, want in ((d_hidden, hidden.grad), (d_items, items.grad)):
        # Nothing but the rounding of the result to bfloat16.
        torch.testing.assert_close(got.float(), want, rtol=2**-7, atol=1e-3)


DRAWS = 20_000


def _draws(rank: int, size: int) -> dict[str, Tensor]:
    case = _law()
    shards = ItemShards(Ranks(dist.group.WORLD), 7)
    own = slice(rank, rank + 1)
    rows = slice(shards.low, shards.high)
    policy = ShardedCatalogueCategorical(
        case["hidden"][own], case["items"][rows], case["bias"][rows], 0.8, shards=shards
    )
    torch.manual_seed(11)  # the same on both
    return {"drawn": policy.sample((DRAWS,))}


def _law() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    case = {
        "hidden": torch.randn(2, 4, generator=g),
        "items": torch.randn(7, 4, generator=g),
        "bias": torch.randn(7, generator=g),
    }
    case["bias"][4:] = -torch.inf  # rank 1 has no item that may be drawn
    return case


def test_samples_follow_the_whole_law_though_ranks_share_a_seed(tmp_path: Path):
    case = _law()
    probs = CatalogueCategorical(case["hidden"], case["items"], case["bias"], 0.8).probs.double()
    for rank, found in enumerate(run_ranks(_draws, 2, tmp_path)):
        assert found["drawn"].shape == (DRAWS, 1)
        counts = torch.bincount(found["drawn"][:, 0], minlength=7).double()
        assert counts[4:].sum() == 0
        expected = DRAWS * probs[rank, :4]
        chi2 = float(((counts[:4] - expected).square() / expected).sum())
        assert chi2 < 21.1  # 3 degrees of freedom: one in 10,000


def _refusals(rank: int, size: int) -> list[str]:
    shards = ItemShards(Ranks(dist.group.WORLD), 5)
    hidden, items = torch.zeros(2, 4), torch.zeros(shards.high - shards.low, 4)
    policy = ShardedCatalogueCategorical(hidden, items, shards=shards)
    wrong = (
        lambda: policy.log_prob(torch.tensor([0, 5])),
        lambda: policy.log_prob(torch.zeros(2)),
        lambda: policy.topk(6),
        lambda: shards.look_up(items, torch.tensor([-1])),
        lambda: ShardedCatalogueCategorical(hidden, torch.zeros(5, 4), shards=shards),
        lambda: ShardedCatalogueCategorical(hidden, items, torch.zeros(5), shards=shards),
    )
    return [_refused(call) for call in wrong]


def _refused(call: Any) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is looked at elsewhere)
        call()
    return str(error.value)


def test_what_does_not_fit_is_refused_before_anybody_is_asked(tmp_path: Path):
    for rank, told in enumerate(run_ranks(_refusals, 2, tmp_path)):
        low, high = (0, 3) if rank == 0 else (3, 5)
        for message, part in zip(
            told,
            (
                "actions must lie in [0, 5) but hold 5",
                "integer item indices",
                "k must lie in [1, 5]",
                "items to look up must lie in [0, 5) but hold -1",
                f"rank {rank} holds items {low} to {high}",
                "expected a bias of shape",
            ),
            strict=True,
        ):
            assert part in message
