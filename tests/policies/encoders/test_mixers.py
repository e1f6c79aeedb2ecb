"""The GRU and the transformer against torch's own modules and a softmax written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchrl_drpo.policies import EncoderConfig, HistoryEncoder
from torchrl_drpo.policies.encoders import HistoryGRU, HistoryTransformer

D, L, B = 8, 5, 6


def test_a_gru_equals_torchs_run_row_by_row() -> None:
    encoder = HistoryEncoder(D, L, config=EncoderConfig("gru", layers=2, width=7)).double()
    ours = encoder.sequence
    theirs = nn.GRU(D, 7, num_layers=2, batch_first=True).double()
    for name, parameter in theirs.named_parameters():
        parameter.data.copy_(getattr(ours, name))
    embedded = torch.randn(B, L, D, dtype=torch.double)
    for row in range(B):
        count = min(row, L)
        mask = torch.arange(L) >= L - count
        begin = ours.start.unsqueeze(1)
        hidden = begin
        if count:
            hidden = theirs(embedded[row : row + 1, L - count :] * D**0.5, begin)[1]
        expected = ours.leave(hidden[-1, 0])
        got = encoder(embedded[row : row + 1], mask.unsqueeze(0))[0]
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


def test_a_gru_starts_as_torchs_does() -> None:
    torch.manual_seed(0)
    ours = HistoryGRU(64, width=64)
    for name, parameter in nn.GRU(64, 64).named_parameters():
        mine = getattr(ours, name)
        assert mine.shape == parameter.shape
        assert mine.std().item() == pytest.approx(parameter.std().item(), rel=0.1)


def attention_by_hand(model: HistoryTransformer, embedded: Tensor, times: Tensor | None) -> Tensor:
    """One sequence, place by place: loops and softmaxes, no masks."""

    def norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / (centred.square().mean() + module.eps).sqrt() * module.weight + module.bias

    def linear(module: nn.Linear | None, x: Tensor) -> Tensor:
        return x if module is None else module.weight @ x + module.bias

    stream = [model.start, *(linear(model.enter, row) for row in embedded)]
    heads = model.position.shape[0]
    for block in model.blocks:
        normed = [norm(block.norm_attention, x) for x in stream]
        out = []
        for i, x in enumerate(stream):
            mixed = []
            for head in range(heads):
                part = slice(head * len(x) // heads, (head + 1) * len(x) // heads)
                double = slice(2 * part.start, 2 * part.stop)
                query, scores, values = linear(block.query, normed[i])[part], [], []
                for j in range(i + 1):
                    key, value = linear(block.key_value, normed[j])[double].chunk(2)
                    score = query @ key / len(query) ** 0.5 + model.position[head, i - j]
                    if times is not None and j > 0:
                        gap = int(times[i - 1] - times[j - 1])
                        score = score + model.apart[head, (gap + 1).bit_length() - 1]
                    scores.append(score)
                    values.append(value)
                weights = torch.stack(scores).exp()
                mixed.append((weights / weights.sum()) @ torch.stack(values))
            x = x + linear(block.mix, torch.cat(mixed))
            inner = nn.functional.gelu(linear(block.widen, norm(block.norm_feedforward, x)))
            out.append(x + linear(block.narrow, inner))
        stream = out
    return torch.stack([linear(model.leave, norm(model.norm, x)) for x in stream])


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("width", [D, 12])
def test_attention_equals_softmaxes_written_out(width: int, timed: bool) -> None:
    model = HistoryTransformer(D, L, width=width, heads=2, times=timed).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    embedded = torch.randn(3, L, D, dtype=torch.double)
    times = torch.tensor([[0, 0, 1, 2, 7], [5, 6, 2**40, 2**51, 2**51], [1, 3, 3, 3, 4]])
    times = times if timed else None
    places = model(embedded, times)
    for row in range(3):
        expected = attention_by_hand(model, embedded[row], None if times is None else times[row])
        torch.testing.assert_close(places[row], expected, atol=1e-10, rtol=1e-10)
    last = torch.tensor([0, 3, L])
    alone = model(embedded, times, last)
    torch.testing.assert_close(alone, places[torch.arange(3), last], atol=1e-10, rtol=1e-10)


def test_half_precision_is_close() -> None:
    model = HistoryTransformer(D, L, width=D).eval()
    embedded = torch.randn(3, L, D)
    expected = model(embedded)
    got = model.bfloat16()(embedded.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lstm"}, "kind must be pooling, gru or transformer, got 'lstm'"),
        ({"pooling": "max"}, "pooling must be mean, recency or attention, got 'max'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"hidden": (3, 0)}, r"hidden\[1\] must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"kind": "gru", "times": True}, "times are read by a transformer, not by 'gru'"),
    ],
)
def test_settings_that_make_no_encoder_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**options)


def test_what_is_given_must_be_read_and_what_is_read_given() -> None:
    embedded, mask = torch.randn(B, L, D), torch.ones(B, L, dtype=torch.bool)
    times, feedback = torch.zeros(B, L, dtype=torch.long), torch.zeros(B, L)
    plain = [HistoryEncoder(D, L, config=EncoderConfig(k)) for k in ("pooling", "gru")]
    plain.append(HistoryEncoder(D, L, config=EncoderConfig("transformer")))
    for encoder in plain:
        with pytest.raises(ValueError, match="reads no times"):
            encoder(embedded, mask, times=times)
        with pytest.raises(ValueError, match="reads no feedback"):
            encoder(embedded, mask, feedback=feedback)
    with pytest.raises(ValueError, match="reads times"):
        HistoryEncoder(D, L, config=EncoderConfig("transformer", times=True))(embedded, mask)
    with pytest.raises(ValueError, match="reads feedback"):
        HistoryEncoder(D, L, config=EncoderConfig("gru", feedback=True))(embedded, mask)
    with pytest.raises(ValueError, match="3 heads cannot share a width of 8 out"):
        HistoryEncoder(D, L, config=EncoderConfig("transformer", heads=3))
    with pytest.raises(ValueError, match="6 items were given to an encoder made for 5"):
        plain[2](torch.randn(B, 6, D), torch.ones(B, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="parts of the encoder"):
        HistoryEncoder(D, L, hidden=(3,), config=EncoderConfig("gru"))
    with pytest.raises(ValueError, match="an encoder has no 'depth'"):
        EncoderConfig.of({"kind": "gru", "depth": 3})
