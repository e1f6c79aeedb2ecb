"""faiss behind the signature of the exact search, its recall measured."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.policies.decoding.exact import Metric, MIPSDecoder
from torchrl_drpo.policies.decoding.indices import IndexKind, IndexSettings, build, load_faiss

#: Queries that recall is measured on, unless others are given.
_SAMPLE = 256


class Recall(NamedTuple):
    """How much of the exact lists an index finds.

    Attributes:
        k: length of the lists.
        value: share of their places that it fills as well, in [0, 1]; an item whose score equals
            that of the exact list's last place counts, whichever of equals it is.
        queries: number of queries that this was measured on.
    """

    k: int
    value: float
    queries: int


class FaissDecoder:
    r"""The k items with the largest :math:`q \cdot e_v`, as far as a faiss index finds them.

    Needs the extra ``[faiss]``. Takes the place of :class:`~torchrl_drpo.MIPSDecoder` wherever
    lists are made; the exact search stays in it, to measure the recall and to help out:

    - excluded items are dropped from lists that are as much longer, so that they take no place;
    - a row for which the index finds too few items, or whose query is not finite, is searched
      exactly: a list is never shorter than the catalogue allows;
    - of ``"ivf"`` and ``"hnsw"`` that form of the items is indexed which finds more for ``sample``:
      as they are, or made equally long (:func:`~.indices.build`).

    Args:
        items: embeddings, ``[V, d]``, floating point, finite; the index holds a copy in float32.
        kind: ``"flat"`` compares all items (exact, in another order of additions), ``"ivf"`` those
            of the ``nprobe`` most promising of ``4 sqrt(V)`` lists, ``"hnsw"`` walks a graph.
        metric: as of :class:`~torchrl_drpo.MIPSDecoder`.
        nprobe: lists that ``"ivf"`` looks into.
        neighbours: edges of a node of ``"hnsw"``.
        ef: candidates that ``"hnsw"`` keeps while building and searching, at least as many as
            are asked for.
        sample: queries ``[N, d]`` that recall is measured on: give states of the policy. Without
            them some of the items' own vectors are taken, which are queries of another kind.
        k: length of the lists whose recall is measured.

    Attributes:
        recall: the :class:`Recall` on ``sample``. It is measured when the index is built.
        exact: the exact search over the same items.

    Raises:
        ModuleNotFoundError: without faiss.
        ValueError: for items that are no finite floating-point matrix, or an unknown kind.

    Examples:
        >>> import pytest
        >>> _ = pytest.importorskip("faiss")
        >>> decoder = FaissDecoder(torch.eye(4), "flat", k=2)
        >>> decoder.decode(torch.tensor([0.5, 0.1, 0.9, 0.2]), k=2, exclude=torch.tensor([2]))
        (tensor([0.5000, 0.2000]), tensor([0, 3]))
        >>> decoder.recall
        Recall(k=2, value=1.0, queries=4)
    """

    def __init__(
        self,
        items: Tensor,
        kind: IndexKind = "hnsw",
        *,
        metric: Metric = "inner_product",
        nprobe: int = 32,
        neighbours: int = 32,
        ef: int = 128,
        sample: Tensor | None = None,
        k: int = 10,
    ) -> None:
        if kind not in ("flat", "ivf", "hnsw"):
            raise ValueError(f"kind must be flat, ivf or hnsw, got {kind!r}")
        for name, value in (("nprobe", nprobe), ("neighbours", neighbours), ("ef", ef)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        faiss = load_faiss()
        self.exact = MIPSDecoder(items, metric=metric)
        self.kind: IndexKind = kind
        vectors = items.detach().float().cpu()
        if not torch.isfinite(vectors).all():
            row = int((~torch.isfinite(vectors).all(-1)).nonzero()[0])
            raise ValueError(
                f"items must be finite but item {row} is not; an index would never find it"
            )
        vectors = unit(vectors) if metric == "cosine" else vectors
        self._ef = ef
        if sample is None:
            step = max(1, self.num_items // _SAMPLE)
            sample = items.detach()[::step][:_SAMPLE].float()
        settings = IndexSettings(kind, nprobe, neighbours, ef)
        asked = sample.detach().float().cpu() if metric == "inner_product" else None
        self._index, self._pads = build(faiss, vectors, settings, asked)
        self._faiss = faiss
        self.recall = self.measure_recall(sample, min(k, self.num_items))

    @property
    def num_items(self) -> int:
        """V, the number of items."""
        return self.exact.num_items

    def __call__(
        self, query: Tensor, k: int = 1, exclude: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Same as :meth:`decode`."""
        return self.decode(query, k, exclude)

    @torch.no_grad()
    def decode(
        self, query: Tensor, k: int = 1, exclude: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best items of each query that the index finds, best first.

        Args:
            query: ``[*B, d]``.
            k: how many, in [1, V].
            exclude: item indices that must not come back, ``[E]`` or ``[*B, E]``.

        Returns:
            Scores (float32) and indices ``[*B, k]``, as of :meth:`MIPSDecoder.decode`, on the
            query's device.

        Raises:
            ValueError: as :meth:`MIPSDecoder.decode`.
        """
        self.exact.check(query, k, exclude)
        batch, device = query.shape[:-1], query.device
        flat = query.reshape(-1, query.shape[-1]).float().cpu()
        banned = flat.new_full((len(flat), 0), -1, dtype=torch.long)
        if exclude is not None:
            banned = exclude.cpu().expand(*batch, -1).reshape(len(flat), -1)
        scores, indices = self._searched(flat, k, banned)
        lost = self._lost(flat, indices, k, banned)
        if lost.any():
            rows = lost.nonzero().squeeze(1)
            there = self.exact.items.device
            found = self.exact.decode(flat[rows].to(there), k, banned[rows].to(there))
            scores[rows], indices[rows] = found[0].float().cpu(), found[1].cpu()
        return tuple(each.reshape(*batch, k).to(device) for each in (scores, indices))

    def measure_recall(self, query: Tensor, k: int, exclude: Tensor | None = None) -> Recall:
        """Recall at ``k`` on some queries ``[N, d]``, against the exact search."""
        best, _ = self.exact.decode(query, k, exclude)
        mine, found = self.decode(query, k, exclude)
        least = best[..., -1:]
        # Sums of another order differ by rounding.
        slack = 1e-5 * best.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        hit = ((mine.to(best) >= least - slack) & (found >= 0)) | (best == -torch.inf)
        return Recall(k, hit.double().mean().item() if hit.numel() else 1.0, hit[..., 0].numel())

    def _searched(self, flat: Tensor, k: int, banned: Tensor) -> tuple[Tensor, Tensor]:
        """The index's lists without what is banned; -inf and -1 where they are short."""
        asked = min(self.num_items, k + banned.shape[1])
        query = unit(flat) if self.exact.metric == "cosine" else flat
        query = torch.nn.functional.pad(query, (0, self._pads))
        score, item = self._index.search(
            query.contiguous().numpy(), asked, **self._parameters(asked)
        )
        score, item = torch.from_numpy(score), torch.from_numpy(item)
        gone = item < 0
        if banned.shape[1]:
            gone |= _among(item, banned)
        score = score.masked_fill(gone, -torch.inf)
        # What is left keeps its order.
        order = gone.to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        score, item = score.gather(1, order), item.masked_fill(gone, -1).gather(1, order)
        short = k - score.shape[1]
        return (
            torch.nn.functional.pad(score, (0, short), value=-torch.inf),
            torch.nn.functional.pad(item, (0, short), value=-1),
        )

    def _lost(self, flat: Tensor, item: Tensor, k: int, banned: Tensor) -> Tensor:
        """Rows that the exact search must look at: more is left than was found, or no number."""
        ordered = torch.where((banned < 0) | (banned >= self.num_items), -1, banned).sort(1).values
        known = ordered >= 0
        known[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        left = (self.num_items - known.sum(1)).clamp(max=k)
        return ((item >= 0).sum(1) < left) | ~torch.isfinite(flat).all(1)

    def _parameters(self, asked: int) -> dict[str, Any]:
        if self.kind != "hnsw":
            return {}
        return {"params": self._faiss.SearchParametersHNSW(efSearch=max(self._ef, asked))}

    def __repr__(self) -> str:
        k, value, queries = self.recall
        shape = tuple(self.exact.items.shape)
        return (
            f"FaissDecoder(items={shape}, kind={self.kind!r}, metric={self.exact.metric!r}, "
            f"recall@{k}={value:.3f} on {queries} queries)"
        )


def _among(item: Tensor, banned: Tensor) -> Tensor:
    """Which items ``[N, n]`` are among their row's banned ones ``[N, E]``."""
    ordered = banned.sort(1).values.contiguous()
    place = torch.searchsorted(ordered, item.contiguous()).clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, place) == item
