r"""A policy over semantic IDs times a critic, code by code.

The critic's worth :math:`\bar Q` of a prefix is its mean over the items below, and a code is raised
by it:

.. math:: \pi_\tau(c_t \mid s, c_{<t}) = \pi(c_t \mid s, c_{<t})\,
    e^{(\bar Q(s, c_{\le t}) - \bar Q(s, c_{<t})) / \tau} / Z_t

What prefixes add telescopes, so an item's weight is :math:`\pi(v)\, e^{Q(v) / \tau}` before it is
normalised, as of a softmax over items. Codes are normalised level by level, though: with a mean
below a prefix where the exact tilt has a soft maximum. Events stay items; log-probabilities, draws
and the search are exactly *this* policy's, and nothing is enumerated. Items that share a semantic
ID are worth their mean, and told apart by the policy's biases.

Notation   N rows, P prefixes a row, C codes of a level, W most children of a prefix, K the width of
the critic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions.code_trie import CodeTrie
from torchrl_drpo.policies.semantic_id.decoders import of_parents
from torchrl_drpo.policies.semantic_id.policy import SemanticIDPolicy, semantic_id_policy
from torchrl_drpo.policies.served import served_actor
from torchrl_drpo.policies.tilted import Critic, CriticTilt


class _Memory(NamedTuple):
    """What is remembered of prefixes: the decoder's own, the critic's queries, and their nodes."""

    inner: Any
    query: Tensor
    node: Tensor


class TiltedDecoder(nn.Module):
    """Raises the logits of codes by what the critic says of the items behind them.

    Args:
        policy: whose codes these are; it has the decoder, the trie, the critic and tau, which are
            saved and moved there.
    """

    def __init__(self, policy: TiltedSemanticIDPolicy) -> None:
        super().__init__()
        self._policy = (policy,)  # no module of this one's
        self.refresh()

    def refresh(self) -> None:
        """Takes the worth of prefixes anew, of codes or a critic that were loaded since."""
        tilted = self._policy[0]
        for level, (vectors, bias) in enumerate(_of_nodes(tilted.trie, tilted.critic)):
            self.register_buffer(f"vectors_{level}", vectors, persistent=False)
            self.register_buffer(f"bias_{level}", bias, persistent=False)

    def start(self, hidden: Tensor) -> _Memory:
        """The memory of one empty prefix a row, of states and queries ``[N, D + K]``."""
        inside = self._policy[0].policy
        dim = inside.code_vectors[0].shape[1]
        # Its shape, not its length, which an exported graph would take for a constant.
        node = torch.zeros(hidden.shape[0], 1, dtype=torch.long, device=hidden.device)
        return _Memory(inside.decoder.start(hidden[:, :dim]), hidden[:, dim:], node)

    def logits(self, memory: _Memory, level: int) -> Tensor:
        """Scores of the codes of a level, ``[N, P, C]``; right where a code may follow."""
        tilted = self._policy[0]
        children = tilted.trie.children_of(memory.node, level)
        own = tilted.policy.decoder.logits(memory.inner, level)
        own = own.expand(*memory.node.shape, own.shape[-1])
        # Logits are divided by the temperature, what the critic adds to them is not to be.
        worth = self._worth(memory.query, children.node, level) * (tilted.temperature / tilted.tau)
        return own.scatter_add(-1, children.code, torch.where(children.valid, worth, 0.0).to(own))

    def advance(self, memory: _Memory, parent: Tensor, code: Tensor, level: int) -> _Memory:
        """The memory after prefixes went on; see :class:`CodeDecoder`."""
        tilted = self._policy[0]
        children = tilted.trie.children_of(of_parents(memory.node, parent), level)
        there = (children.code == code.unsqueeze(-1)) & children.valid
        place = there.to(torch.uint8).argmax(-1, keepdim=True)
        node = children.node.gather(-1, place).squeeze(-1)
        own = tilted.policy.decoder.advance(memory.inner, parent, code, level)
        return _Memory(own, memory.query, node)

    def _worth(self, query: Tensor, node: Tensor, level: int) -> Tensor:
        """What the critic says of nodes ``[N, P, W]``, up to a number a row."""
        vectors, bias = getattr(self, f"vectors_{level}"), getattr(self, f"bias_{level}")
        if node[0].numel() * query.shape[-1] < len(vectors):  # fewer numbers than those of all
            return (vectors[node] @ query[:, None, :, None]).squeeze(-1) + bias[node]
        every = torch.addmm(bias, query, vectors.T)
        return every.gather(1, node.flatten(1)).view(node.shape)


def _of_nodes(trie: CodeTrie, critic: Critic) -> list[tuple[Tensor, Tensor]]:
    """By level, means of the critic's items below each node, ``[n, K]`` and ``[n]``."""
    if not trie.has_codes:
        return []
    with torch.no_grad():
        order = trie.item_at.long()
        vectors, bias = critic.item_vectors()[order], critic.item_bias()[order]
    found = []
    for level in range(trie.num_levels):
        node = torch.arange(trie.num_nodes(level), device=order.device)
        begin, end = trie.spans(node, level)
        count = end - begin
        below = node.repeat_interleave(count)
        sums = vectors.new_zeros(len(node), vectors.shape[1]).index_add_(0, below, vectors)
        alone = bias.new_zeros(len(node)).index_add_(0, below, bias)
        found.append((sums / count.unsqueeze(-1), alone / count))
    return found


class TiltedSemanticIDPolicy(CriticTilt, SemanticIDPolicy):
    """A policy over semantic IDs times the exponential of a critic.

    See :func:`make_tilted_semantic_id_actor`. Only the logits of codes depend on tau.
    """

    def __init__(self, policy: SemanticIDPolicy, critic: Critic, tau: float) -> None:
        nn.Module.__init__(self)  # everything is that policy's
        self.policy = policy
        self.tilt(policy.trie.num_items, critic, tau)
        self.tilted = TiltedDecoder(self)
        self.register_load_state_dict_post_hook(lambda module, _: module.tilted.refresh())

    @property
    def trie(self) -> CodeTrie:
        """The items' semantic IDs."""
        return self.policy.trie

    @property
    def decoder(self) -> TiltedDecoder:
        """From a state, the critic's query and a prefix to the logits of the next code."""
        return self.tilted


def make_tilted_semantic_id_actor(
    actor: ProbabilisticActor, critic: Critic, tau: float
) -> ProbabilisticActor:
    """The actor of a policy over semantic IDs times ``exp(Q / tau)``, code by code; see the module.

    Args:
        actor: of :func:`~torchrl_drpo.policies.make_semantic_id_actor`.
        critic: the reward model of its log.
        tau: temperature, in units of the reward, above 0.

    Returns:
        The actor, which reads what ``actor`` reads and shares its parameters.

    Raises:
        TypeError: for an actor of another kind.
        ValueError: for a tau that is not positive and finite, a critic of another log, or an actor
            that is tilted already.

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo.policies import make_semantic_id_actor
        >>> from torchrl_drpo.rewards import CatalogueReward
        >>> from torchrl_drpo.rewards.regression import StandardisedReward
        >>> from torchrl_drpo.rewards.towers import two_tower_module
        >>> member = lambda: StandardisedReward(two_tower_module(4, dim=4, history=2))
        >>> critic = CatalogueReward([member(), member()])  # untrained: fit one to your log
        >>> codes = torch.tensor([[0, 0], [0, 1], [1, 0], [2, 1]])
        >>> actor = make_semantic_id_actor(codes, dim=8, history=2)
        >>> tilted = make_tilted_semantic_id_actor(actor, critic, tau=0.1)
        >>> rows = TensorDict({"observation": {"history": torch.tensor([[-1, 3]])}}, [1])
        >>> tilted.get_dist(rows).topk(4).values.exp().sum().round(decimals=4)
        tensor(1.)
    """
    inside = semantic_id_policy(actor)
    if isinstance(inside, TiltedSemanticIDPolicy):
        raise ValueError(
            "the actor is tilted by a critic already; set its policy's tau, or tilt the actor that "
            "was trained"
        )
    return served_actor(TiltedSemanticIDPolicy(inside, critic, tau), actor, inside)
