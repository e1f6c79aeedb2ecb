"""The item index: what a retrieval service needs of a trained policy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from torchrl_drpo.pipeline.artifacts.folder import Artifact, save_artifact
from torchrl_drpo.policies.catalogue import CataloguePolicy
from torchrl_drpo.policies.decoding import MIPSDecoder
from torchrl_drpo.policies.retrieval import RetrievalPolicy
from torchrl_drpo.policies.served import ServedPolicy

KIND = "torchrl-drpo item index"
VERSION = 1


@dataclass(frozen=True)
class ItemIndex:
    """Item vectors whose inner products with a state are the policy's logits, and raw item ids.

    A bias is the last coordinate of the vectors (a query's is then 1) and the temperature is
    divided out, so that any maximum-inner-product index (faiss, HNSW) can serve the policy.

    Attributes:
        ids: raw item ids, in catalogue order.
        vectors: float32 ``[V, D]``, or ``[V, D + 1]`` with a bias.
        dim: width ``D`` of the states.
    """

    ids: list[int | str]
    vectors: Tensor
    dim: int

    def __post_init__(self) -> None:
        if len(self.ids) != self.vectors.shape[0]:
            raise ValueError(f"{len(self.ids)} item ids for {self.vectors.shape[0]} vectors")

    @classmethod
    def from_policy(
        cls, policy: CataloguePolicy | ServedPolicy | RetrievalPolicy, ids: list[int | str]
    ) -> ItemIndex:
        """The index of a policy as it is now (copied: later training does not move it)."""
        vectors = policy.item_vectors().detach()
        dim = vectors.shape[1]
        if policy.bias is not None:
            vectors = torch.cat([vectors, policy.bias.detach().unsqueeze(-1)], -1)
        vectors = vectors.float().cpu() / policy.temperature
        return cls(list(ids), vectors, dim)

    def top_k(self, hidden: Tensor, k: int, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The ``k`` items with the largest logits, exactly, in bounded memory.

        Args:
            hidden: states, shape ``[*B, D]``.
            k: how many.
            exclude: item indices that must not come back, ``[E]`` or ``[*B, E]``, -1 for padding.

        Returns:
            Logits and catalogue indices, ``[*B, k]`` each, best first; index -1 where the
            catalogue ran out.
        """
        return self._decoder.decode(self.queries(hidden), k, exclude)

    def queries(self, hidden: Tensor) -> Tensor:
        """What is multiplied with the vectors at states ``[*B, D]``, float32 on the CPU."""
        hidden = hidden.float().cpu()
        if self.vectors.shape[1] > self.dim:
            hidden = torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)
        return hidden

    @cached_property
    def _decoder(self) -> MIPSDecoder:
        return MIPSDecoder(self.vectors)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the index to ``directory``, atomically."""
        return save_artifact(
            directory,
            kind=KIND,
            version=VERSION,
            facts={"dim": self.dim, "num_items": len(self.ids)},
            tensors={"items": {"vectors": self.vectors}},
            lists={"item_ids": self.ids},
        )

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ItemIndex:
        """Reads an index.

        Raises:
            ArtifactError: if it is absent, damaged, foreign or of another version.
        """
        artifact = Artifact(directory, kind=KIND, version=VERSION)
        return cls(
            artifact.values("item_ids"),
            artifact.tensors("items")["vectors"],
            artifact.facts["dim"],
        )
