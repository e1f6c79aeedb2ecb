"""The simulated world: items, interests, rewards and how a session goes on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchrl_drpo.envs.settings import RecSimSetting, SessionSetting
from torchrl_drpo.functional.similarity import cosine_reward, unit
from torchrl_drpo.policies.decoding import MIPSDecoder

#: Keeps a world's random numbers apart from those of a user stream with the same seed.
_WORLD_STREAM = 0x9E3779B9


class RecSimWorld(nn.Module):
    r"""Catalogue, interest map and popularity law of one simulated world; all are buffers.

    Items are a mixture of K Gaussians around random centres of norm one, brought to norm
    :math:`\sqrt d`; a user's interest is :math:`u^* = \mathrm{unit}(\mathrm{softmax}(c W s /
    \sqrt{\dim s})\, C)` with the centres C. Source: arXiv 2602.10430, appendix.

    Args:
        setting: the numbers of the world.
        seed: decides items, interest map and popularity; the same on every device.
        device: where the buffers live.

    Attributes:
        items: embeddings, shape ``[V, d]``, each of norm ``sqrt(d)``.
        centres: cluster centres, shape ``[K, d]``, each of norm one.
        state_map: W, shape ``[K, state_dim]``.
        popularity: probability that one popularity draw is this item, float64, shape ``[V]``.

    Examples:
        >>> import torch
        >>> world = RecSimWorld(RecSimSetting.preset("table"), seed=0)
        >>> interest = world.interest(torch.zeros(2, 10))
        >>> interest.shape
        torch.Size([2, 128])
        >>> bool(world.latent_reward(interest, world.retrieve(interest)).min() > 0.2)
        True
    """

    def __init__(
        self, setting: RecSimSetting, *, seed: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.setting = setting
        # Drawn on the CPU whatever the device: one seed is one world everywhere.
        generator = torch.Generator().manual_seed(seed ^ _WORLD_STREAM)
        d, V, K = setting.action_dim, setting.num_items, setting.num_clusters
        centres = unit(torch.randn(K, d, generator=generator))
        cluster = torch.randint(K, (V,), generator=generator)
        noise = torch.randn(V, d, generator=generator) / math.sqrt(d)
        directions = unit(centres[cluster] + setting.cluster_std * noise)
        directions = unit(directions - directions.mean(0))
        state_map = torch.randn(K, setting.state_dim, generator=generator)
        rank = torch.randperm(V, generator=generator).double() + 1.0
        popularity = rank.pow(-setting.zipf_exponent)
        self.register_buffer("centres", centres)
        self.register_buffer("state_map", state_map)
        self.register_buffer("popularity", popularity / popularity.sum())
        self.decoder = MIPSDecoder(math.sqrt(d) * directions, metric="cosine")
        self.to(device)

    @property
    def items(self) -> Tensor:
        """Item embeddings, shape ``[V, d]``, each of norm ``sqrt(d)``."""
        return self.decoder.items

    def interest(self, state: Tensor) -> Tensor:
        """Latent interest of users.

        Args:
            state: shape ``[*B, state_dim]``.

        Returns:
            Unit vectors, shape ``[*B, d]``.
        """
        scale = self.setting.interest_sharpness / math.sqrt(self.setting.state_dim)
        return unit(torch.softmax(scale * state @ self.state_map.T, dim=-1) @ self.centres)

    def retrieve(self, action: Tensor) -> Tensor:
        """Index of the item whose direction is nearest to each action.

        Args:
            action: shape ``[*B, d]``.

        Returns:
            int64, shape ``[*B]``.
        """
        return self.decoder.decode(action)[1].squeeze(-1)

    def latent_reward(self, interest: Tensor, item: Tensor) -> Tensor:
        """Noise-free reward of items.

        Args:
            interest: unit vectors, shape ``[*B, d]``.
            item: int64 indices, shape ``[*B]``.

        Returns:
            In (0, 1], shape ``[*B]``.
        """
        cosine = (unit(self.items[item]) * interest).sum(-1)
        return cosine_reward(cosine, self.setting.delta)

    def observed_reward(self, latent_reward: Tensor, generator: torch.Generator) -> Tensor:
        """What a log shows: ``clip(latent + noise, 0, 1)``, in the shape of ``latent_reward``."""
        noise = torch.randn(latent_reward.shape, generator=generator, device=latent_reward.device)
        return (latent_reward + self.setting.reward_noise * noise).clamp(0.0, 1.0)

    def draw_states(self, *shape: int, generator: torch.Generator) -> Tensor:
        """New users: ``N(0, I)`` states of shape ``[*shape, state_dim]``."""
        return torch.randn(
            *shape, self.setting.state_dim, generator=generator, device=self.items.device
        )


def advance(
    state: Tensor, latent_reward: Tensor, session: SessionSetting, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One step of a session: the state drifts, and the user may leave.

    Args:
        state: shape ``[*B, state_dim]``.
        latent_reward: reward of the item just shown, shape ``[*B]``.
        session: drift and chance of leaving.
        generator: of the device of ``state``.

    Returns:
        The next state, shape ``[*B, state_dim]``, and whether the user left, bool, ``[*B]``.
    """
    fresh = torch.randn(state.shape, generator=generator, device=state.device)
    drifted = math.sqrt(1.0 - session.drift) * state + math.sqrt(session.drift) * fresh
    leave = session.leave_probability * (1.0 - session.satisfaction * latent_reward)
    coin = torch.rand(leave.shape, generator=generator, device=state.device)
    return drifted, coin < leave
