"""A history encoder of a user's own: checked, when it is made, to be what it has to be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_drpo.references import load_allowed

#: Places from which on histories are changed, at most.
_PLACES = 64


def own_mixer(
    reference: str, dim: int, length: int, device: torch.device | str | None
) -> nn.Module:
    """What ``reference(dim, length)`` makes: embeddings ``[B, L, D]`` to states ``[B, L + 1, D]``.

    The states are those after the first 0, 1, ..., L items, as
    :class:`~torchrl_drpo.policies.encoders.HistoryGRU` gives them, for any L up to ``length``: what
    follows an item must not change its state, since histories are padded behind.

    Raises:
        ValueError: for a reference that nobody has allowed, what is no module, states of another
            shape, and states that are not finite or that later items or other histories change.
    """
    mixer = load_allowed(reference, "encoder")(dim, length)
    if not isinstance(mixer, nn.Module):
        raise ValueError(f"encoder {reference!r} made a {type(mixer).__name__}; expected a Module")
    mixer = mixer.to(device)
    _check(mixer, reference, dim, length)
    return mixer


@torch.no_grad()
def _check(mixer: nn.Module, reference: str, dim: int, length: int) -> None:
    """Refuses what is not causal, by histories that differ from some place on alone."""
    device = next((each.device for each in mixer.parameters()), torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    one, rest = (torch.randn(2, length, dim, generator=draw).to(device) for _ in range(2))
    places = torch.arange(length, device=device)
    from_place = places if length <= _PLACES else places[:: -(-length // _PLACES)]
    other = torch.where((places >= from_place[:, None])[..., None], rest[0], one[0])
    training = mixer.training
    mixer.eval()
    states, changed = mixer(one), mixer(torch.cat([one[:1], other]))
    mixer.train(training)
    expected = (2, length + 1, dim)
    if not isinstance(states, Tensor) or states.shape != expected:
        got = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise ValueError(
            f"encoder {reference!r}: of embeddings {tuple(one.shape)} it made {got}; expected the "
            f"states after 0, 1, ..., {length} items, {expected}"
        )
    if not torch.isfinite(states).all():
        raise ValueError(
            f"encoder {reference!r}: of finite embeddings it made states that are not finite"
        )
    if not torch.allclose(states[0], changed[0], atol=1e-5):
        raise ValueError(
            f"encoder {reference!r}: another history of the batch changes the states of this one, "
            "or they are drawn anew in eval mode, too; what a state says may depend on its own "
            "history alone"
        )
    # Of a history that is changed from a place on, the states up to that place's are compared.
    before = torch.arange(length + 1, device=device) <= from_place[:, None]
    kept = torch.where(before[..., None], changed[1:], states[0])
    if not torch.allclose(kept, states[0].expand_as(kept), atol=1e-5):
        raise ValueError(
            f"encoder {reference!r}: a later item changes the states before it; what a state says "
            "may depend on the items up to its own alone"
        )
