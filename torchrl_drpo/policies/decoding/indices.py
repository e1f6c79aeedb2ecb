"""How faiss indexes items for inner products, and in which form of them it finds more."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

#: How faiss finds items: all of them, lists of near ones, or a graph of neighbours.
IndexKind = Literal["flat", "ivf", "hnsw"]

#: faiss wants so many vectors for each list that it learns, and says so where it has fewer.
_VECTORS_A_LIST = 39
#: Items that the two forms are tried on, and the length of lists that are compared.
_TRIED, _TRIED_K = 20_000, 10


class IndexSettings(NamedTuple):
    """What an index is built with; see :class:`~torchrl_drpo.policies.FaissDecoder`."""

    kind: IndexKind
    nprobe: int
    neighbours: int
    ef: int


def load_faiss() -> Any:
    """The module.

    Raises:
        ModuleNotFoundError: where it is not installed, with its extra's name.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise ModuleNotFoundError(
            "an approximate index needs the extra for faiss: pip install 'torchrl-drpo[faiss]'; "
            "the exact search (MIPSDecoder, --index exact) needs nothing",
            name="faiss",
        ) from None
    return faiss


def build(
    faiss: Any, vectors: Tensor, settings: IndexSettings, sample: Tensor | None
) -> tuple[Any, int]:
    """An index for inner products, in the form of the vectors that finds more.

    Graphs and lists are made for near vectors, and items with the largest inner products need not
    be near each other. With one coordinate more all can be made equally long at the same inner
    products, and then they are (Bachrach et al., RecSys 2014). On trained item tables that is worth
    much, most of all where a critic lengthens some; of vectors in all directions it makes
    neighbours of all that are short. So both forms are tried, on at most 20,000 of the items.

    Args:
        faiss: the module.
        vectors: float32, finite, ``[V, d]``.
        settings: of the index.
        sample: queries ``[N, d]`` that the forms are tried on; ``None`` takes vectors as they are.

    Returns:
        The index, and how many zeros are appended to a query: 0 or 1.
    """
    if settings.kind == "flat" or sample is None or not len(sample):
        return _built(faiss, vectors, settings), 0
    step = -(-len(vectors) // _TRIED)
    forms = (vectors, equally_long(vectors))
    tried = [_built(faiss, form[::step], settings) for form in forms]
    k = min(_TRIED_K, len(vectors[::step]))
    best = (sample @ vectors[::step].T).topk(k).indices
    found = [_found(index, sample, pads, best) for pads, index in enumerate(tried)]
    pads = int(found[1] > found[0])
    return (tried[pads] if step == 1 else _built(faiss, forms[pads], settings)), pads


def equally_long(vectors: Tensor) -> Tensor:
    """Vectors ``[V, d + 1]`` of the longest one's length, with the same inner products.

    Example:
        >>> equally_long(torch.tensor([[3.0, 4.0], [0.0, 3.0]]))
        tensor([[3., 4., 0.],
                [0., 3., 4.]])
    """
    square = vectors.double().square().sum(-1)
    rest = (square.max() - square).clamp_min(0).sqrt()
    return torch.cat([vectors, rest.unsqueeze(-1).to(vectors)], -1)


def _found(index: Any, sample: Tensor, pads: int, best: Tensor) -> int:
    """Places of the exact lists that an index fills as well."""
    query = torch.nn.functional.pad(sample, (0, pads)).contiguous()
    mine = torch.from_numpy(index.search(query.numpy(), best.shape[1])[1])
    return int((best.unsqueeze(-1) == mine.unsqueeze(1)).any(-1).sum())


def _built(faiss: Any, vectors: Tensor, settings: IndexSettings) -> Any:
    count, width = vectors.shape
    if settings.kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, settings.neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = index.hnsw.efSearch = settings.ef
    elif settings.kind == "ivf":
        lists = max(1, min(int(4 * count**0.5), count // _VECTORS_A_LIST))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = min(settings.nprobe, lists)
        index.train(vectors.contiguous().numpy())
    else:
        index = faiss.IndexFlatIP(width)
    index.add(vectors.contiguous().numpy())
    return index
