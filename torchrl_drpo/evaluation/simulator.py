r"""What a continuous policy is worth in the simulator, from tensors alone.

Notation   N users, V items, d embedding width; action [N, d], interest [N, d] (unit vectors),
           items [V, d]; delta is the width of the latent reward exp(-(1 - cos) / (2 delta^2)).
Source     arXiv 2602.10430, appendix: nearest-item retrieval by cosine, latent reward, eCPM.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_drpo.functional.checks import check_finite, check_positive
from torchrl_drpo.functional.similarity import cosine_reward, unit
from torchrl_drpo.policies.decoding import MIPSDecoder

#: Published eCPM figures are five times the published rewards (table 1).
ECPM_PER_REWARD = 5.0
_BLOCK = 2**22  # cosines held at a time


def retrieved_reward(action: Tensor, interest: Tensor, items: Tensor, *, delta: float) -> Tensor:
    """Latent reward of the item whose direction is nearest to each action.

    Args:
        action: shape ``[N, d]``.
        interest: unit vectors, shape ``[N, d]``.
        items: shape ``[V, d]``.
        delta: width of the reward, positive.

    Returns:
        In (0, 1], shape ``[N]``.

    Raises:
        ValueError: if shapes do not fit, or an action is not finite.

    Examples:
        >>> import torch
        >>> items, interest = torch.eye(2), torch.tensor([[1.0, 0.0]])
        >>> retrieved_reward(torch.tensor([[0.1, 9.0]]), interest, items, delta=0.5)
        tensor([0.1353])
    """
    _check(action, interest, items, delta)
    nearest = MIPSDecoder(items, metric="cosine").decode(action)[1].squeeze(-1)
    return _reward(items[nearest], interest, delta)


def raw_reward(action: Tensor, interest: Tensor, *, delta: float) -> Tensor:
    """Latent reward of the action itself, as if it were an item; ``[N]``, in (0, 1].

    It separates policies where the retrieved reward saturates because of the catalogue.

    Args:
        action: shape ``[N, d]``.
        interest: unit vectors, shape ``[N, d]``.
        delta: width of the reward, positive.

    Returns:
        In (0, 1], shape ``[N]``.

    Raises:
        ValueError: if shapes do not fit, or an action is not finite.

    Examples:
        >>> import torch
        >>> raw_reward(torch.tensor([[5.0, 0.0]]), torch.tensor([[1.0, 0.0]]), delta=0.5)
        tensor([1.])
    """
    _check(action, interest, None, delta)
    return _reward(action, interest, delta)


def action_distance(action: Tensor, interest: Tensor, items: Tensor) -> Tensor:
    r"""How far each action is from the user's best item: :math:`\|a - e^*\| / \sqrt d`.

    With items of norm :math:`\sqrt d`, as in the simulator, the origin is at distance 1, an
    unrelated item at :math:`\sqrt 2`, and a policy whose distance passes 2 has left the catalogue.

    Args:
        action: shape ``[N, d]``.
        interest: unit vectors, shape ``[N, d]``.
        items: shape ``[V, d]``.

    Returns:
        Non-negative, shape ``[N]``.

    Raises:
        ValueError: if shapes do not fit, or an action is not finite.

    Examples:
        >>> import torch
        >>> items, interest = 2 ** 0.5 * torch.eye(2), torch.tensor([[1.0, 0.0]])
        >>> action_distance(torch.zeros(1, 2), interest, items)
        tensor([1.])
    """
    _check(action, interest, items, 1.0)
    best = MIPSDecoder(items, metric="cosine").decode(interest)[1].squeeze(-1)
    return torch.linalg.vector_norm(action - items[best], dim=-1) / action.shape[-1] ** 0.5


def oracle_reward(interest: Tensor, items: Tensor, *, delta: float) -> Tensor:
    """Latent reward of each user's best item, the most that any policy can get; ``[N]``.

    Args:
        interest: unit vectors, shape ``[N, d]``.
        items: shape ``[V, d]``.
        delta: width of the reward, positive.

    Returns:
        In (0, 1], shape ``[N]``.

    Raises:
        ValueError: if shapes do not fit.

    Examples:
        >>> import torch
        >>> oracle_reward(torch.tensor([[0.6, 0.8]]), torch.eye(2), delta=0.5)
        tensor([0.6703])
    """
    return retrieved_reward(interest, interest, items, delta=delta)


def random_reward(interest: Tensor, items: Tensor, *, delta: float) -> Tensor:
    """Expected latent reward of a uniformly random item: the exact mean over items; ``[N]``.

    Args:
        interest: unit vectors, shape ``[N, d]``.
        items: shape ``[V, d]``.
        delta: width of the reward, positive.

    Returns:
        In (0, 1], shape ``[N]``.

    Raises:
        ValueError: if shapes do not fit.

    Examples:
        >>> import torch
        >>> random_reward(torch.tensor([[1.0, 0.0]]), torch.eye(2), delta=0.5)
        tensor([0.5677])
    """
    _check(interest, interest, items, delta)
    directions = unit(items)
    rows = max(1, _BLOCK // items.shape[0])
    means = [cosine_reward(u @ directions.T, delta).mean(-1) for u in interest.split(rows)]
    return torch.cat(means)


def evaluate_policy(
    actor: TensorDictModuleBase,
    observation: Tensor,
    interest: Tensor,
    items: Tensor,
    *,
    delta: float,
) -> dict[str, float]:
    """Means over users of what the policy's mean action is worth.

    Args:
        actor: reads ``observation``, writes ``action``; asked for its deterministic action.
        observation: states, shape ``[N, state_dim]``.
        interest: unit vectors of the same users, shape ``[N, d]``.
        items: shape ``[V, d]``.
        delta: width of the reward, positive.

    Returns:
        ``retrieved_reward`` and ``raw_reward`` in (0, 1], ``ecpm`` (five times the first), and
        ``action_distance`` (see :func:`action_distance`). Reading them waits for the device.

    Raises:
        ValueError: if shapes do not fit, or the policy's action is not finite.

    Examples:
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> actor = TensorDictModule(torch.nn.Identity(), ["observation"], ["action"])
        >>> states = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> evaluate_policy(actor, 3 * states, states, 2**0.5 * torch.eye(2), delta=0.5)
        {'retrieved_reward': 1.0, 'raw_reward': 1.0, 'ecpm': 5.0, 'action_distance': 1.12...}
    """
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        td = TensorDict({"observation": observation}, batch_size=observation.shape[:1])
        action = actor(td)["action"]
    retrieved = retrieved_reward(action, interest, items, delta=delta).mean()
    means = {
        "retrieved_reward": retrieved,
        "raw_reward": raw_reward(action, interest, delta=delta).mean(),
        "ecpm": ECPM_PER_REWARD * retrieved,
        "action_distance": action_distance(action, interest, items).mean(),
    }
    return {name: mean.item() for name, mean in means.items()}


def _reward(vector: Tensor, interest: Tensor, delta: float) -> Tensor:
    return cosine_reward((unit(vector) * interest).sum(-1).clamp(max=1.0), delta)


def _check(action: Tensor, interest: Tensor, items: Tensor | None, delta: float) -> None:
    check_positive("delta", delta)
    if action.ndim != 2 or action.shape != interest.shape:
        raise ValueError(
            "action and interest must have one shape [N, d], "
            f"got {tuple(action.shape)} and {tuple(interest.shape)}"
        )
    if items is not None and (items.ndim != 2 or items.shape[1] != action.shape[1]):
        raise ValueError(
            f"items must have shape [V, {action.shape[1]}], the width of the actions, "
            f"got {tuple(items.shape)}"
        )
    check_finite("action", action, hint="the policy has diverged")
