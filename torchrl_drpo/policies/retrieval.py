"""A Gaussian policy over item vectors, read as what it serves: a policy over items.

What is trained is a Gaussian over vectors: its actions are the vectors of the logged items, or
better ones that no item has. What is served is the item whose vector points where the mean does.
That retrieval is a softmax over items whose logits are cosines, so evaluation, item index and
recommendation see one more :class:`~torchrl_drpo.CatalogueCategorical`, and are not told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.policies.gaussian import DiagonalNormal, GaussianHead
from torchrl_drpo.policies.states import StateVector

_KEYS = {name: ("observation", name) for name in ("history", "context", "features")}
_ITEMS_AT_A_TIME = 65_536


class RetrievalPolicy(nn.Module):
    """State vector, Gaussian mean, item directions: ``forward`` gives where the mean points.

    See :func:`make_retrieval_actor` for the arguments.

    Attributes:
        items: item directions, buffer ``[V, D]``, each of norm one, or zero.
        bias: ``None``; retrieval prefers no item as such.
        state: the :class:`StateVector`; :meth:`calibrate` it before training.
        inputs: names of what is read: ``"history"``, ``"context"``, ``"features"``.
        head: the :class:`GaussianHead`; only its mean is served.
    """

    items: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        history: int = 20,
        context_sizes: Sequence[int] = (),
        num_features: int = 0,
        hidden: Sequence[int] = (128,),
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("num_items", num_items), ("dim", dim), ("temperature", temperature)):
            check_positive(name, value)
        self.temperature, self.bias = temperature, None
        self.register_buffer("items", torch.zeros(num_items, dim))
        self.state = StateVector(
            dim if history else 0, context_sizes=context_sizes, num_features=num_features
        )
        self.head = GaussianHead(self.state.width, dim, hidden=hidden)
        reads = {"context": bool(context_sizes), "features": num_features > 0}
        reads = {"history": history > 0 or not any(reads.values())} | reads
        self.inputs = tuple(name for name, read in reads.items() if read)

    def forward(self, *observed: Tensor) -> Tensor:
        """The direction ``[*B, D]`` of the Gaussian's mean.

        Args:
            *observed: what :meth:`states` is given, those that ``inputs`` names, in its order.
        """
        return unit(self.head.mean(self.states(**dict(zip(self.inputs, observed, strict=True)))))

    def states(
        self,
        history: Tensor | None = None,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """What the Gaussian reads, ``[*B, p]``.

        Args:
            history: item numbers, int64 ``[*B, L]``, -1 for padding.
            context: int64 ``[*B, C]``.
            features: ``[*B, F]``; left out, the training rows' mean.
        """
        return self.state(*self._parts(history, context, features))

    def calibrate(self, rows: Iterable[TensorDictBase]) -> RetrievalPolicy:
        """Fits the states' centre and scale to training rows; see :class:`StateVector`.

        Args:
            rows: blocks of rows of the log, such as ``buffer.batches(8192)``; read once.

        Returns:
            This policy.
        """
        self.state.calibrate(self._parts(**self.observed(block)) for block in rows)
        return self

    def observed(self, rows: TensorDictBase) -> dict[str, Tensor]:
        """The entries of a log's rows that :meth:`states` reads.

        Raises:
            KeyError: for a missing one.
        """
        found = {name: rows.get(_KEYS[name], None) for name in self.inputs}
        missing = [_KEYS[name] for name, entry in found.items() if entry is None]
        if missing:
            there = sorted(map(str, rows.keys(True, True)))
            raise KeyError(f"the policy reads {missing[0]}; the rows have {there}")
        return found

    def _parts(
        self,
        history: Tensor | None = None,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The arguments of :class:`StateVector`."""
        if history is None:  # nobody has done anything yet
            known = context if context is not None else features
            if known is None:
                raise ValueError("a state needs a history, a context or features, got none of them")
            history = torch.full((*known.shape[:-1], 1), -1, device=known.device)
        return F.embedding(history.clamp(min=0), self.items), history >= 0, context, features

    def action_vectors(self, items: Tensor) -> Tensor:
        """Vectors ``[*B, D]`` of item numbers ``[*B]`` as a Gaussian learns them.

        They have norm ``sqrt(D)``: entries of size one, as its initial sigma is.
        """
        return F.embedding(items, self.items) * self.items.shape[1] ** 0.5

    def usual_features(self) -> Tensor | None:
        """What to give for features that are not known: the training rows' mean ``[F]``."""
        return self.state.usual_features()

    def item_vectors(self) -> Tensor:
        """The item directions, ``[V, D]``."""
        return self.items

    def distribution(self, hidden: Tensor) -> CatalogueCategorical:
        """Retrieval at directions ``hidden [*B, D]``: logits are cosines over the temperature."""
        return CatalogueCategorical(hidden, self.items, temperature=self.temperature)


def make_retrieval_actor(
    num_items: int,
    dim: int,
    *,
    item_vectors: Tensor | None = None,
    history: int = 20,
    context_sizes: Sequence[int] = (),
    num_features: int = 0,
    hidden: Sequence[int] = (128,),
    temperature: float = 0.1,
) -> ProbabilisticActor:
    """A policy over items by retrieval: reads rows of a log, writes the item that it serves.

    Its :class:`GaussianHead` is trained as the policy over vectors that it is, on rows of
    :class:`VectorRows` with the actor of :func:`gaussian_actor`; this actor serves it.

    Args:
        num_items: V, size of the catalogue.
        dim: D, width of the item vectors.
        item_vectors: ``[V, D]``; only directions count. Zeros by default, to load a saved state.
        history: length of the histories; 0 for a state without.
        context_sizes: number of values of each context column.
        num_features: number of numeric features.
        hidden: widths of the Gaussian's hidden layers.
        temperature: of the softmax over cosines; moves probabilities, never the order of items.

    Returns:
        An actor that reads ``("observation", "history")``, ``("observation", "context")`` and
        ``("observation", "features")``, as far as sizes say so, and writes ``hidden`` ``[*B, D]``
        and ``action`` (item numbers). ``actor.get_dist(td)`` is a
        :class:`~torchrl_drpo.CatalogueCategorical`.

    Raises:
        ValueError: for sizes below 1, or item vectors of another shape or that are not finite.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> actor = make_retrieval_actor(100, 8, item_vectors=torch.randn(100, 8), history=3)
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 7, 42]])}}, [1])
        >>> actor(td)["action"].shape, actor.get_dist(td).probs.shape
        (torch.Size([1]), torch.Size([1, 100]))
    """
    policy = RetrievalPolicy(
        num_items,
        dim,
        history=history,
        context_sizes=context_sizes,
        num_features=num_features,
        hidden=hidden,
        temperature=temperature,
    )
    if item_vectors is not None:
        policy.items = _directions(item_vectors, num_items, dim)
    return retrieval_actor(policy)


def retrieval_actor(policy: RetrievalPolicy) -> ProbabilisticActor:
    """The actor that serves a policy; see :func:`make_retrieval_actor`."""
    keys: list[NestedKey] = [_KEYS[name] for name in policy.inputs]
    return ProbabilisticActor(
        TensorDictModule(policy, in_keys=keys, out_keys=["hidden"]),
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=policy.distribution,
    )


def retrieval_policy(actor: nn.Module) -> RetrievalPolicy:
    """The :class:`RetrievalPolicy` inside an actor of :func:`make_retrieval_actor`."""
    for module in actor.modules():
        if isinstance(module, RetrievalPolicy):
            return module
    raise TypeError(f"expected an actor of make_retrieval_actor, got {type(actor).__name__}")


def gaussian_actor(policy: RetrievalPolicy) -> ProbabilisticActor:
    """The policy over vectors, to be trained: reads ``state``, writes ``action`` ``[*B, D]``.

    It shares its parameters with ``policy``: what a loss teaches it is served at once.
    """
    return ProbabilisticActor(
        TensorDictModule(policy.head, in_keys=["state"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=["action"],
        distribution_class=DiagonalNormal,
        default_interaction_type=InteractionType.RANDOM,
    )


class VectorRows:
    """From rows of a catalogue log to rows that a policy over vectors learns from.

    Args:
        policy: gives item directions and states; its state is to be calibrated before.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> actor = make_retrieval_actor(4, 2, item_vectors=torch.eye(4)[:, :2] + 1, history=1)
        >>> rows = TensorDict({"action": torch.tensor([3]), "observation": {}}, [1])
        >>> rows["observation", "history"] = torch.tensor([[-1]])
        >>> vectors = VectorRows(retrieval_policy(actor))(rows)
        >>> vectors["action"], vectors["item"], vectors["state"].shape
        (tensor([[1.0000, 1.0000]]), tensor([3]), torch.Size([1, 2]))
    """

    def __init__(self, policy: RetrievalPolicy) -> None:
        self.policy = policy

    @torch.no_grad()
    def __call__(self, rows: TensorDictBase) -> TensorDictBase:
        """Adds ``state`` ``[*B, p]`` and ``item`` ``[*B]``; ``action`` becomes ``[*B, D]``.

        The rows themselves are changed, and given back.
        """
        item = rows.get("action")
        rows.set("state", self.policy.states(**self.policy.observed(rows)))
        rows.set("item", item)
        return rows.set("action", self.policy.action_vectors(item))


def _directions(vectors: Tensor, num_items: int, dim: int) -> Tensor:
    if vectors.shape != (num_items, dim) or not vectors.is_floating_point():
        raise ValueError(
            f"item_vectors must be floating point of shape [{num_items}, {dim}], "
            f"got {vectors.dtype} of shape {tuple(vectors.shape)}"
        )
    out = torch.empty(num_items, dim)
    for start in range(0, num_items, _ITEMS_AT_A_TIME):  # a block's copies are all that is needed
        block = vectors[start : start + _ITEMS_AT_A_TIME]
        finite = torch.isfinite(block).all(-1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            count = num_items - int(torch.isfinite(vectors).all(-1).sum())
            raise ValueError(
                f"item_vectors must be finite but item {start + row} holds "
                f"{block[row].tolist()[:4]}... ({count} such items); mend them, or leave these "
                "items out"
            )
        out[start : start + len(block)] = unit(block.float())
    return out
