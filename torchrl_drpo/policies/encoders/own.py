"""A history encoder of a user's own: checked, when it is made, to be what it has to be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_drpo.references import load_allowed


def own_mixer(
    reference: str, dim: int, length: int, device: torch.device | str | None
) -> nn.Module:
    """What ``reference(dim, length)`` makes: embeddings ``[B, L, D]`` to states ``[B, L + 1, D]``.

    The states are those after the first 0, 1, ..., L items, as
    :class:`~torchrl_drpo.policies.encoders.HistoryGRU` gives them, for any L up to ``length``: what
    follows an item must not change its state, since histories are padded behind.

    Raises:
        ValueError: for a reference that nobody has allowed, what is no module, states of another
            shape, or states that later items change.
    """
    mixer = load_allowed(reference, "encoder")(dim, length)
    if not isinstance(mixer, nn.Module):
        raise ValueError(f"encoder {reference!r} made a {type(mixer).__name__}; expected a Module")
    mixer = mixer.to(device)
    _check(mixer, reference, dim, length)
    return mixer


@torch.no_grad()
def _check(mixer: nn.Module, reference: str, dim: int, length: int) -> None:
    """Refuses what is not causal, by two histories that differ in their last item alone."""
    device = next((each.device for each in mixer.parameters()), torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    one = torch.randn(2, length, dim, generator=draw).to(device)
    other = one.clone()
    other[:, -1] = torch.randn(2, dim, generator=draw).to(device)
    training = mixer.training
    mixer.eval()
    states, changed = mixer(one), mixer(other)
    mixer.train(training)
    expected = (2, length + 1, dim)
    if not isinstance(states, Tensor) or states.shape != expected:
        got = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise ValueError(
            f"encoder {reference!r}: of embeddings {tuple(one.shape)} it made {got}; expected the "
            f"states after 0, 1, ..., {length} items, {expected}"
        )
    if not torch.allclose(states[:, :-1], changed[:, :-1], atol=1e-5):
        raise ValueError(
            f"encoder {reference!r}: a later item changes the states before it; what a state says "
            "may depend on the items up to its own alone"
        )
