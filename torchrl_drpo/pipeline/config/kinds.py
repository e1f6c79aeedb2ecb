"""The kinds of policies that can be trained on a log, and the options that only one of them has.

A further kind is a file in :mod:`torchrl_drpo.pipeline.kinds`, a class of options here, and a line
in ``KINDS``: the command, its help, checkpoints, evaluation and recommendation know it from that.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Any, Literal

from torchrl_drpo.references import is_reference
from torchrl_drpo.spelling import did_you_mean


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the policy, whatever its kind.

    Attributes:
        dim: width of states and item embeddings; of an embedding policy, where its item vectors
            are found in the log.
        hidden: widths of the encoder's hidden layers.
        pooling: how a history becomes one vector, where it is pooled; not of embedding policies.
        encoder: what reads histories: pooling, a GRU, a causal transformer, or one of your own,
            mymodule:make_encoder, which runs that module's code; not of embedding policies.
        layers: of a GRU or a transformer.
        heads: of a transformer.
        dropout: in training, of what the encoder reads, and inside a GRU or a transformer.
        history_feedback: whether the encoder reads what the rows of a history were worth.
        history_times: whether a transformer reads how much time lies between them.
    """

    dim: int = 64
    hidden: tuple[int, ...] = (128,)
    pooling: Literal["mean", "recency", "attention"] = "recency"
    encoder: Literal["pooling", "gru", "transformer"] | str = "pooling"
    layers: int = 2
    heads: int = 2
    dropout: float = 0.0
    history_feedback: bool = False
    history_times: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        known = ("pooling", "gru", "transformer")
        if self.encoder not in known and not is_reference(self.encoder):
            raise ValueError(
                f"no encoder {self.encoder!r}{did_you_mean(self.encoder, known)}; there are "
                f"{', '.join(known)}, and those of your own, as mymodule:make_encoder"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.encoder == "transformer" and self.dim % self.heads:
            raise ValueError(
                f"{self.heads} heads cannot share a width of {self.dim} out; make dim a multiple "
                "of heads"
            )
        if self.history_times and self.encoder != "transformer":
            raise ValueError(
                f"times between a history's rows are read by a transformer, not by "
                f"{self.encoder!r}; leave --history-times out or add --encoder transformer"
            )

    @property
    def history_columns(self) -> tuple[str, ...]:
        """What it reads of a history's rows beside their items."""
        read = {"time": self.history_times, "feedback": self.history_feedback}
        return tuple(name for name, wanted in read.items() if wanted)

    @property
    def shape(self) -> dict[str, Any]:
        """What the policy is made of, as JSON data: no setting that its encoder does not have."""
        if self.encoder == "pooling" and not (self.dropout or self.history_feedback):
            return {"dim": self.dim, "hidden": self.hidden, "pooling": self.pooling}
        own: dict[str, Any] = {"kind": self.encoder, "hidden": self.hidden}
        own |= {"dropout": self.dropout}
        own |= {"pooling": self.pooling} if self.encoder == "pooling" else {}
        own |= {"layers": self.layers} if self.encoder in ("gru", "transformer") else {}
        own |= {"heads": self.heads} if self.encoder == "transformer" else {}
        own |= {"feedback": True} if self.history_feedback else {}
        own |= {"times": True} if self.history_times else {}
        return {"dim": self.dim, "encoder": own}


@dataclass(frozen=True)
class CatalogueOptions:
    """What only a softmax over item numbers has.

    Attributes:
        bias: whether each item has a logit of its own.
        temperature: divides the logits.
        tie_embeddings: whether histories and the softmax share one item table.
        item_table: what item vectors are: "ids", learned from the rows that show an item; "codes",
            sums of vectors of the codes in the schema's item table; "features", a projection of the
            embedding there. The latter two also rank items that no row shows.
        own_vectors: whether each item's own vector is added to codes or features.
    """

    bias: bool = True
    temperature: float = 1.0
    tie_embeddings: bool = True
    item_table: Literal["ids", "codes", "features"] = "ids"
    own_vectors: bool = False

    def __post_init__(self) -> None:
        if self.item_table == "ids":
            if self.own_vectors:
                raise ValueError(
                    "items of item_table='ids' have vectors of their own alone; leave "
                    "--own-vectors out"
                )
        elif not self.tie_embeddings:
            raise ValueError(
                f"item_table={self.item_table!r} gives histories and the softmax one table; leave "
                "--no-tie-embeddings out"
            )

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        """What a run of this kind depends on, as JSON data."""
        own = asdict(self)
        made = {"kind": own.pop("item_table"), "own": own.pop("own_vectors")}
        own |= {} if self.item_table == "ids" else {"item_table": made}
        return {"model": model.shape | own}


@dataclass(frozen=True)
class EmbeddingOptions:
    """The reward model of policies over item vectors, which uphill, -q, -a and -tilt follow.

    Attributes:
        uphill_step: how far uphill moves actions before training, and -tilt the mean that serves,
            in units of the actions' norm; `drpo reproduce uphill_step` says how .3 was chosen.
        folds: of the cross-fitting; all rows of a user lie in one.
        landmarks: states that span the model; more follow finer detail, and cost time.
        max_rows: fit to so many training rows at most, drawn at random; all rows are judged.
    """

    uphill_step: float = 0.3
    folds: int = 5
    landmarks: int = 96
    max_rows: int = 500_000

    def __post_init__(self) -> None:
        if not 0 <= self.uphill_step < float("inf"):
            raise ValueError(
                f"uphill_step must be a finite number of at least 0, got {self.uphill_step}"
            )
        for name, least in (("folds", 2), ("landmarks", 1), ("max_rows", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        """What a run of this kind depends on, as JSON data."""
        shape = {"dim": model.dim, "hidden": model.hidden}
        return {"policy": "embedding", "model": shape, "uphill": asdict(self)}


@dataclass(frozen=True)
class SemanticIDOptions:
    """What only a policy over semantic IDs has.

    Attributes:
        head: what writes the codes: a recurrent network, a transformer, or levels that do not look
            at each other.
        item_bias: whether items of one semantic ID have biases of their own.
        item_vectors: whether an item of a history says something beyond its codes.
    """

    head: Literal["gru", "transformer", "parallel"] = "gru"
    item_bias: bool = True
    item_vectors: bool = True

    def settings(self, model: ModelConfig) -> dict[str, Any]:
        """What a run of this kind depends on, as JSON data."""
        return {"policy": "semantic-id", "model": model.shape | asdict(self)}


@dataclass(frozen=True)
class PolicyKind:
    """A kind of policy.

    Attributes:
        name: as given on the command line and written in checkpoints.
        summary: what it is, for ``--help``.
        needs: what it needs of a log, for ``--help``.
        options: the options that only it has; their ``settings`` are part of a run's identity.
        training: ``module:class`` of its
            :class:`~torchrl_drpo.pipeline.kinds.training.PolicyTraining`.
        actor: ``module:function`` that makes its actor from what a checkpoint keeps.
        probabilities: whether its items have probabilities, so that it can be evaluated by them.
        objectives: what is trained where nobody says.
    """

    name: str
    summary: str
    needs: str
    options: type
    training: str
    actor: str
    probabilities: bool = True
    objectives: tuple[str, ...] = ("bc", "drpo", "positive-only")

    def load_training(self) -> Any:
        """The class that trains it, imported now."""
        return _load(self.training)

    def load_actor(self) -> Any:
        """The function that makes its actor, imported now."""
        return _load(self.actor)


_KINDS = "torchrl_drpo.pipeline.kinds"
KINDS: dict[str, PolicyKind] = {
    kind.name: kind
    for kind in (
        PolicyKind(
            "catalogue",
            "a softmax over item numbers",
            "any log",
            CatalogueOptions,
            f"{_KINDS}.catalogue:CatalogueTraining",
            f"{_KINDS}.served:make_served_actor",
            objectives=("bc", "drpo", "positive-only", "bc-tilt", "conditioned-tilt"),
        ),
        PolicyKind(
            "embedding",
            "a Gaussian over item vectors, which serves the items nearest to its mean",
            "vectors in the schema's item table, or users, from whose rows they are found",
            EmbeddingOptions,
            f"{_KINDS}.embedding:EmbeddingTraining",
            f"{_KINDS}.served:make_served_retrieval_actor",
            probabilities=False,
        ),
        PolicyKind(
            "semantic-id",
            "generative: it writes an item's semantic ID code by code",
            "codes in the schema's item table",
            SemanticIDOptions,
            f"{_KINDS}.semantic_id:SemanticIDTraining",
            f"{_KINDS}.served:make_served_semantic_id_actor",
        ),
    )
}
#: The options of all kinds, a field a kind.
KindOptions = make_dataclass(
    "KindOptions",
    [
        (kind.name.replace("-", "_"), kind.options, field(default_factory=kind.options))
        for kind in KINDS.values()
    ],
    frozen=True,
)
KindOptions.__doc__ = "The options of each kind of policy."


def describe_kinds() -> str:
    """All kinds in a sentence each, for help texts."""
    return " ".join(
        f"{kind.name} is {kind.summary} (needs {kind.needs})." for kind in KINDS.values()
    )


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
