"""The settings of ``drpo train``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.pipeline.kinds.embedding_config import UphillConfig
from torchrl_drpo.pipeline.log_config import LogConfig
from torchrl_drpo.pipeline.objectives import FOLLOW_A_MODEL, NAMES, check_fits
from torchrl_drpo.policies.encoders import Pooling


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the policy; see :func:`~torchrl_drpo.make_catalogue_actor`.

    An embedding policy takes ``hidden``, and ``dim`` where its item vectors are found in the log.

    Attributes:
        dim: width of states and item embeddings.
        hidden: widths of the encoder's hidden layers.
        pooling: how a history becomes one vector.
        bias: whether each item has a logit of its own.
        temperature: divides the logits.
        tie_embeddings: whether histories and the softmax share one item table.
    """

    dim: int = 64
    hidden: tuple[int, ...] = (128,)
    pooling: Pooling = "recency"
    bias: bool = True
    temperature: float = 1.0
    tie_embeddings: bool = True


@dataclass(frozen=True)
class TrainCatalogueConfig(LogConfig):
    """Train policies on a log and evaluate them on its last days.

    Attributes:
        output: folder for everything that is written.
        policy: catalogue is a softmax over item numbers; embedding a Gaussian over item vectors,
            which serves the items nearest to its mean. The vectors are those of the schema's item
            table, or else found in which users were shown which items.
        objectives: what to train, by name, of {names}; random and popularity are always in the
            table. Of these, {modelled} first fit a reward model to the training rows.
        seeds: runs of each objective.
        steps: gradient steps a run.
        batch_size: rows a step.
        learning_rate: of Adam.
        ks: list lengths of the hit rates; the table shows the last one.
        device: where to train.
        logger: also write the training curves for TensorBoard, or as CSV files.
        json: print the results as JSON instead of a table.
        model: shape of the policy.
        uphill: the reward model of embedding policies.
    """

    output: Path = Path("runs/catalogue")
    policy: Literal["catalogue", "embedding"] = "catalogue"
    objectives: tuple[str, ...] = ("bc", "drpo", "positive-only")
    seeds: int = 1
    steps: int = 1_200
    batch_size: int = 1_024
    learning_rate: float = 2e-3
    ks: tuple[int, ...] = (10, 50)
    device: str = "cpu"
    logger: Literal["none", "csv", "tensorboard"] = "none"
    json: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    uphill: UphillConfig = field(default_factory=UphillConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.objectives if name not in NAMES]
        if unknown or not self.objectives:
            raise ValueError(
                f"objectives must be among {', '.join(NAMES)}, got {list(self.objectives)}"
            )
        for name in self.objectives:
            check_fits(name, self.policy)
        for name in ("seeds", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_positive("learning_rate", self.learning_rate)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must name list lengths of at least 1, got {self.ks}")

    def settings(self) -> dict[str, Any]:
        """What a run depends on, as JSON data, and no folders of this machine."""
        plain = asdict(self)
        for name in ("output", "objectives", "seeds", "logger", "json"):
            del plain[name]
        if self.policy == "catalogue":
            del plain["policy"], plain["uphill"]
        else:
            for name in ("pooling", "bias", "temperature", "tie_embeddings"):
                del plain["model"][name]
        plain["logs"] = Path(self.logs).name
        plain["schema"] = None if self.schema is None else self.schema.name
        return json.loads(json.dumps(plain))


# The docstring is the help of `drpo train`, and names come from where they are defined.
TrainCatalogueConfig.__doc__ = (TrainCatalogueConfig.__doc__ or "").format(
    names=", ".join(NAMES), modelled=", ".join(n for n in NAMES if n in FOLLOW_A_MODEL)
)
