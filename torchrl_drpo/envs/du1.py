r"""D-U1: the categorical sibling of C-U1: 64 actions with embeddings, near and far negatives.

A state has a direction t+ that its positives lie along and a useful direction u, orthogonal to it:
the best action lies along t* = unit(t+ + .45 u), a local negative along t- = unit(t+ - .45 u), four
far negatives opposite to t+. Repelling from the local negative turns a policy towards t*; the far
ones say nothing that the positives have not said. The best action itself is never logged.

A softmax bounds what a far negative can do to the gradient (the score of action a is e_a - pi, of
length at most :math:`\sqrt 2 (1 - \pi(a))`) but not to the probability.

Source: "Dynamic Remoteness-Aware Policy Optimization" (2026), the environment D-U1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

ACTIONS, EMBEDDING, USEFUL = 64, 4, 0.45
STATES = 2_048  #: of the training and of the held-out set
LOCAL, FAR = (0,), (1, 2, 3, 4)  #: columns of ``World.negatives``


@dataclass(frozen=True)
class World:
    """States with their logged actions.

    Attributes:
        items: unit embeddings of the actions, ``[64, 4]``.
        state: ``[n, 6]``, standard normal.
        reward: R of every action, in [0, 1], ``[n, 64]``.
        best: the action of the highest R, ``[n]``; neither a positive nor a negative.
        positives: the four best other actions along t+, ``[n, 4]``.
        negatives: the best remaining along t-, then the four best along -t+, ``[n, 5]``.
    """

    items: Tensor
    state: Tensor
    reward: Tensor
    best: Tensor
    positives: Tensor
    negatives: Tensor


def make_world(n: int, seed: int, states: int = 0) -> World:
    """``n`` states of a world.

    Args:
        n: how many.
        seed: of the embeddings and the directions.
        states: of the states; others are other states of the same world.

    >>> make_world(3, seed=0).negatives.shape
    torch.Size([3, 5])
    """
    world = torch.Generator().manual_seed(seed)
    items = normalize(torch.randn(ACTIONS, EMBEDDING, generator=world), dim=-1)
    along = torch.randn(6, EMBEDDING, generator=world)
    across = torch.randn(6, EMBEDDING, generator=world)
    stream = torch.Generator().manual_seed(1_000_003 * (states + 1) + seed)
    state = torch.randn(n, 6, generator=stream)
    forward = normalize(state @ along, dim=-1)
    sideways = state @ across
    sideways = normalize(sideways - (sideways * forward).sum(-1, keepdim=True) * forward, dim=-1)
    target = normalize(forward + USEFUL * sideways, dim=-1)
    wrong = normalize(forward - USEFUL * sideways, dim=-1)

    reward = (1 + target @ items.T) / 2
    best = reward.argmax(-1, keepdim=True)
    taken = torch.zeros(n, ACTIONS, dtype=torch.bool).scatter_(-1, best, True)

    def take(direction: Tensor, count: int) -> Tensor:
        """The actions along a direction that are left; they are taken then."""
        score = (direction @ items.T).masked_fill(taken, -2.0)
        chosen = score.topk(count, dim=-1).indices
        taken.scatter_(-1, chosen, True)
        return chosen

    positives = take(forward, 4)
    negatives = torch.cat([take(wrong, len(LOCAL)), take(-forward, len(FAR))], -1)
    return World(items, state, reward, best.squeeze(-1), positives, negatives)


def share_of_the_best(reward: Tensor, world_reward: Tensor) -> Tensor:
    """Mean reward between that of a uniform policy (0) and that of the best actions (1).

    Args:
        reward: mean rewards of policies, ``[P]``.
        world_reward: R of the states that they were measured on, ``[n, 64]`` or ``[P, n, 64]``.

    >>> share_of_the_best(torch.tensor([0.5, 0.75]), torch.tensor([[0.0, 1.0]]))
    tensor([0.0000, 0.5000])
    """
    uniform = world_reward.mean((-1, -2))
    return (reward - uniform) / (world_reward.amax(-1).mean(-1) - uniform)
