"""Decoders step by step against a pass over the whole sequence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.policies.semantic_id import TransformerDecoder, make_decoder

SIZES, D, N = (5, 7, 3, 4), 8, 6


def stepwise(decoder: nn.Module, hidden: Tensor, codes: Tensor) -> list[Tensor]:
    """Logits of each level behind the codes before it."""
    memory, own = decoder.start(hidden), torch.zeros(len(hidden), 1, dtype=torch.long)
    out = []
    for level in range(len(SIZES)):
        out.append(decoder.logits(memory, level)[:, 0])
        if level + 1 < len(SIZES):
            memory = decoder.advance(memory, own, codes[:, level : level + 1], level)
    return out


def gru_at_once(decoder: nn.Module, hidden: Tensor, codes: Tensor) -> list[Tensor]:
    """torch.nn.GRU over the sequence, from the state, with the cell's weights."""
    network = nn.GRU(D, D, batch_first=True).double()
    network.load_state_dict({f"{k}_l0": v for k, v in decoder.cell.state_dict().items()})
    inputs = [decoder.codes.inputs[level][codes[:, level]] for level in range(len(SIZES) - 1)]
    after, _ = network(torch.stack(inputs, 1), hidden.unsqueeze(0))
    states = torch.cat([hidden.unsqueeze(1), after], 1)
    return [
        states[:, level] @ decoder.codes.outputs[level].T + decoder.codes.biases[level]
        for level in range(len(SIZES))
    ]


@pytest.mark.parametrize("rows", [2, 40])
def test_a_step_is_torchs_cell(rows):
    """Whether the codes' products are taken a code or a row."""
    decoder = make_decoder("gru", SIZES, D).double()
    memory, parent = torch.randn(rows, 3, D).double(), torch.randint(3, (rows, 5))
    code = torch.randint(SIZES[1], (rows, 5))
    before = memory.gather(1, parent.unsqueeze(-1).expand(-1, -1, D)).flatten(0, 1)
    expected = decoder.cell(decoder.codes.inputs[1][code].flatten(0, 1), before)
    found = decoder.advance(memory, parent, code, 1)
    torch.testing.assert_close(found, expected.view(rows, 5, D))


def transformer_at_once(decoder: TransformerDecoder, hidden: Tensor, codes: Tensor) -> list[Tensor]:
    """All places together under a causal mask, with the attention written out."""
    inputs = [decoder.codes.inputs[level][codes[:, level]] for level in range(len(SIZES) - 1)]
    places = torch.stack([hidden, *inputs], 1) + decoder.places
    causal = torch.ones(len(SIZES), len(SIZES), dtype=torch.bool).tril()
    for block in decoder.blocks:
        query, key, value = block.project(block.before(places)).chunk(3, -1)
        parts = []
        for q, k, v in zip(*(x.chunk(block.heads, -1) for x in (query, key, value)), strict=True):
            score = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            parts.append(score.masked_fill(~causal, -torch.inf).softmax(-1) @ v)
        places = places + block.out(torch.cat(parts, -1))
        places = places + block.network(block.between(places))
    places = F.layer_norm(places, (D,), decoder.norm.weight, decoder.norm.bias)
    return [
        places[:, level] @ decoder.codes.outputs[level].T + decoder.codes.biases[level]
        for level in range(len(SIZES))
    ]


@pytest.mark.parametrize(
    ("decoder", "at_once"),
    [
        (make_decoder("gru", SIZES, D), gru_at_once),
        (make_decoder("transformer", SIZES, D), transformer_at_once),
        (TransformerDecoder(SIZES, D, layers=3, heads=2), transformer_at_once),
    ],
    ids=["gru", "transformer", "three layers"],
)
def test_steps_equal_a_pass_over_the_whole(decoder, at_once):
    decoder = decoder.double()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    hidden = torch.randn(N, D, dtype=torch.double)
    codes = torch.stack([torch.randint(size, (N,)) for size in SIZES], -1)
    for ours, theirs in zip(
        stepwise(decoder, hidden, codes), at_once(decoder, hidden, codes), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("head", ["gru", "transformer", "parallel"])
def test_prefixes_of_a_row_do_not_see_each_other(head):
    """Beams that are reordered and doubled give what each would give alone."""
    decoder = make_decoder(head, SIZES, D).double()
    hidden = torch.randn(N, D, dtype=torch.double)
    first = torch.randint(SIZES[0], (N, 3))
    memory = decoder.advance(decoder.start(hidden), torch.zeros_like(first), first, 0)
    parent = torch.randint(3, (N, 5))
    second = torch.randint(SIZES[1], (N, 5))
    memory = decoder.advance(memory, parent, second, 1)
    logits = decoder.logits(memory, 2).expand(N, 5, -1)
    for beam in range(5):
        codes = torch.stack(
            [first.gather(1, parent[:, beam : beam + 1])[:, 0], second[:, beam]], -1
        )
        codes = F.pad(codes, (0, 2))
        torch.testing.assert_close(logits[:, beam], stepwise(decoder, hidden, codes)[2])


def test_unknown_heads_and_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="gru, transformer or parallel, got 'lstm'"):
        make_decoder("lstm", SIZES, D)
    with pytest.raises(ValueError, match="heads that divide dim = 8"):
        TransformerDecoder(SIZES, D, heads=3)
    assert make_decoder("transformer", SIZES, 6).blocks[0].heads == 2
