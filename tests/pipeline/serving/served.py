"""Policies of all kinds with one small catalogue, and their rankings written out."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo import LogSchema
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, policy_of
from torchrl_drpo.pipeline.artifacts.users import UserHistories
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.policies.retrieval import make_retrieval_actor
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor

KINDS = ("catalogue", "embedding", "semantic-id")
V, HISTORY = 30, 4
SCHEMA = LogSchema(
    user="who", item="video", time="time", quality="click", context=("tab",), features=("age",)
)


def checkpoint(kind: str, seed: int = 0) -> PolicyCheckpoint:
    """Items "v0" to "v29"; user 7 saw v0 to v5, 9 nothing, 8 saw v5; tabs 4 and 6."""
    torch.manual_seed(seed)
    shape = {"history": HISTORY, "context_sizes": (2,), "num_features": 1}
    if kind == "catalogue":
        model = {"num_items": V, "dim": 8, **shape}
        actor = make_catalogue_actor(**model)
        torch.nn.init.normal_(policy_of(actor).bias)
    elif kind == "embedding":
        model = {"num_items": V, "dim": 8, **shape}
        actor = make_retrieval_actor(**model, item_vectors=torch.randn(V, 8))
    else:
        codes = torch.stack([torch.arange(V) % 5, torch.arange(V) // 7], 1)
        actor = make_semantic_id_actor(codes, dim=8, **shape)
        torch.nn.init.normal_(policy_of(actor).bias)
        sizes = policy_of(actor).trie.sizes
        model = {"num_items": V, "dim": 8, "code_sizes": sizes, **shape}
    users = UserHistories(
        ids=Catalogue([7, 9, 8]),
        items=torch.tensor([0, 1, 2, 3, 4, 5, 5]),
        offsets=torch.tensor([0, 6, 6, 7]),
        context=torch.tensor([[0], [1], [-1]]),
        features=torch.tensor([[1.0], [-2.0], [0.5]]),
    )
    return PolicyCheckpoint(
        actor.eval(),
        model,
        Catalogue([f"v{number}" for number in range(V)]),
        users,
        [Catalogue([4, 6])],
        facts={"schema": SCHEMA.to_json()},
        policy=kind,
    )


@torch.no_grad()
def log_probs(model: PolicyCheckpoint, history: list[int], context: int, feature: float) -> Tensor:
    """The policy's log-probabilities of all items, ``[V]``."""
    window = torch.tensor([([-1] * HISTORY + history)[-HISTORY:]])
    policy = policy_of(model.actor)
    hidden = policy(window, torch.tensor([[context]]), torch.tensor([[feature]]))
    return policy.distribution(hidden).logits[0]


def ranked(scores: Tensor, without: set[int] = frozenset(), only: set[int] | None = None) -> list:
    """Raw ids by score, best first."""
    order = scores.argsort(descending=True).tolist()
    return [f"v{i}" for i in order if i not in without and (only is None or i in only)]
