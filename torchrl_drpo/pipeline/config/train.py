"""The settings of ``drpo train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from torchrl_drpo.pipeline.config.kinds import (
    KINDS,
    KindOptions,
    ModelConfig,
    PolicyKind,
    describe_kinds,
)
from torchrl_drpo.pipeline.config.log import LogConfig
from torchrl_drpo.pipeline.config.stopping import StoppingConfig
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.objectives.assignments import assigned, merged, spelled
from torchrl_drpo.pipeline.objectives.named import (
    NAMES,
    Objective,
    check_fits,
    find_objective,
    following_model,
)

#: Where a run keeps a copy of its schema file, so that its results.json can be given as --config.
SCHEMA_COPY = "schema"


@dataclass(frozen=True)
class TrainConfig(LogConfig):
    """Train policies on a log and evaluate them on its last days.

    Attributes:
        output: folder for everything that is written.
        policy: {kinds}
        objectives: what to train, by name, of {names}, or of your own, mymodule:MyLoss, which runs
            that module's code; random and popularity are always in the
            table. Of these, {modelled} first fit a reward model to the training rows. By default
            {usual}; of a policy over item numbers bc-tilt and conditioned-tilt, too, which are left
            out where the reward model has nothing to say.
        set: options of objectives, each NAME.OPTION=VALUE: drpo.kappa=0.2 drpo.weighting=uniform;
            tilt and condition stand for all objectives that have such a part (tilt.tau=0.1).
        seeds: runs of each objective.
        first_seed: the seed of the first of them; the others follow.
        steps: gradient steps a run.
        batch_size: rows a step; of all places of sequences, about so many.
        learning_rate: of Adam.
        weight_decay: of Adam, decoupled (AdamW).
        max_grad_norm: clip the gradient to this norm; none by default.
        warm_up: steps over which the learning rate rises to its value.
        decay: how it goes on: constant, or falling to zero as half a cosine.
        train_places: "last" reads a history for every training row; "all" reads whole sequences of
            users and trains all their rows in one pass, which makes a transformer affordable.
        ks: list lengths of the hit rates; the table shows the last one.
        device: where to train; auto is cuda where there is one, else cpu.
        logger: also write the training curves for TensorBoard, as CSV files, or to Weights & Biases
            (extra wandb; WANDB_MODE=offline keeps them here) or MLflow (extra mlflow; in the output
            folder unless MLFLOW_TRACKING_URI says where).
        json: print the results as JSON instead of a table.
        model: shape of the policy.
        stopping: when training stops.
        kinds: what only one kind of policy has.
        options: by objective, those of its options that are to differ from its own
            (:mod:`torchrl_drpo.pipeline.objectives.options`).
    """

    output: Path = Path("runs/train")
    policy: Literal[tuple(KINDS)] = "catalogue"
    objectives: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    seeds: int = 1
    first_seed: int = 0
    steps: int = 1_200
    batch_size: int = 1_024
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    warm_up: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    train_places: Literal["last", "all"] = "last"
    ks: tuple[int, ...] = (10, 50)
    device: str = "cpu"
    logger: Literal["none", "csv", "tensorboard", "wandb", "mlflow"] = "none"
    json: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    kinds: KindOptions = field(default_factory=KindOptions)
    options: Annotated[Mapping[str, Mapping[str, Any]], tyro.conf.Suppress] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in KINDS:
            raise ValueError(f"policy must be among {', '.join(KINDS)}, got {self.policy!r}")
        if not self.objectives:
            object.__setattr__(self, "objectives", self._usual)
        if self.set:
            given = merged(self.options, assigned(self.set, self.objectives))
            object.__setattr__(self, "options", given)
        for name in self.objectives:
            self.objective(name)
            check_fits(name, self.policy)
        self._check_kinds()
        self._check_places()
        self.stopping.check_used()
        left = [name for name in self.options if name not in self.objectives]
        if left:
            raise ValueError(f"options of {left[0]!r}, which is not among the objectives")
        for name in ("seeds", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(
                f"learning_rate must be a finite number above 0, got {self.learning_rate}"
            )
        if self.first_seed < 0:
            raise ValueError(f"first_seed must be at least 0, got {self.first_seed}")
        if self.warm_up > self.steps:
            raise ValueError(
                f"the learning rate would still rise after the last step: warm_up is "
                f"{self.warm_up} steps of {self.steps}"
            )
        TrainerConfig(  # which checks the others
            weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm, warm_up=self.warm_up
        )
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must name list lengths of at least 1, got {self.ks}")

    def _check_kinds(self) -> None:
        """Raises ``ValueError`` for an option of a kind that is not trained."""
        for kind in KINDS.values():
            own = getattr(self.kinds, kind.name.replace("-", "_"))
            changed = [each.name for each in fields(own) if getattr(own, each.name) != each.default]
            if changed and kind.name != self.policy:
                name = changed[0]
                raise ValueError(
                    f"{name}={getattr(own, name)!r} is an option of {kind.name} policies, and "
                    f"{self.policy} is what is trained; leave it out, or train --policy {kind.name}"
                )

    def _check_places(self) -> None:
        if (
            self.policy == "embedding"
            and self.model.shape
            != ModelConfig(self.model.dim, self.model.hidden, self.model.pooling).shape
        ):
            raise ValueError(
                "an embedding policy reads states of a fixed form, which no encoder makes; leave "
                "--encoder and --dropout out, or train --policy catalogue"
            )
        if self.train_places == "last":
            return
        if self.policy == "embedding":
            raise ValueError(
                "--train-places all needs an encoder, which embedding policies have none of: they "
                "read rows one by one"
            )
        for name in self.objectives:
            objective = self.objective(name)
            if not objective.learns_from_model and objective.condition is None:
                continue
            why = "follows a reward model, which" if objective.learns_from_model else "is one that"
            raise ValueError(
                f"{name!r} {why} reads rows one by one; train the last places, or another objective"
            )

    def objective(self, name: str) -> Objective:
        """The named objective with the options of this run."""
        return find_objective(name, self.options.get(name))

    @property
    def are_usual(self) -> bool:
        """Whether the objectives are those that are trained where nobody says."""
        return self.objectives == self._usual

    @property
    def _usual(self) -> tuple[str, ...]:
        """What is trained where nobody says: of places all at once, nothing that reads levels."""
        usual = KINDS[self.policy].objectives
        if self.train_places == "last":
            return usual
        return tuple(name for name in usual if find_objective(name).condition is None)

    @property
    def every_seed(self) -> range:
        """The seeds of an objective's runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def kind_options(self) -> Any:
        """The options of the kind of policy that is trained."""
        return getattr(self.kinds, self.policy.replace("-", "_"))

    def settings(self) -> dict[str, Any]:
        """What every run depends on, as JSON data, and no folders of this machine."""
        plain = {name: each for name, each in asdict(self).items() if name in _FIELDS}
        for name in (
            "output",
            "policy",
            "objectives",
            "set",
            "seeds",
            "first_seed",
            "logger",
            "json",
            "model",
            "kinds",
            "options",
            "dataset",
            "root",
        ):
            del plain[name]
        if self.train_places == "last":  # as before there was a choice
            del plain["train_places"]
        if not self.stopping.early_stopping:
            del plain["stopping"]
        if self.bad_rows == "error":  # as it was before one could say so
            del plain["bad_rows"]
        for name in ("weight_decay", "max_grad_norm", "warm_up", "decay"):  # likewise
            if plain[name] == getattr(TrainConfig, name):
                del plain[name]
        plain |= self.kind_options.settings(self.model)
        plain["logs"] = self.dataset if self.logs is None else Path(self.logs).name
        plain["schema"] = None if self.schema is None else self.schema.name
        return json.loads(json.dumps(plain))

    def to_file(self, objectives: tuple[str, ...]) -> dict[str, Any]:
        """What runs the same again, given as ``--config``, as JSON data and without folders.

        Args:
            objectives: those that were trained.
        """
        plain = {name: each for name, each in asdict(self).items() if name in _FIELDS}
        for name in ("output", "logger", "json", "root", "options", *_THOSE_OF_A_LOG):
            del plain[name]
        kind = self.policy.replace("-", "_")
        plain["kinds"] = {kind: plain["kinds"][kind]}
        plain["objectives"] = objectives
        plain["set"] = spelled({name: self.options.get(name, {}) for name in objectives})
        named = {"dataset": self.dataset, "preset": self.preset}
        if self.logs is not None:
            named["logs"] = Path(self.logs).name
        if self.schema is not None:
            named["schema"] = self.schema.name
        said = {name: value for name, value in named.items() if value is not None}
        return json.loads(json.dumps(said | plain))


#: Of this command, and not of those that build on it.
_FIELDS = tuple(each.name for each in fields(TrainConfig))
#: What says which log is read, of which a file of options has the names alone.
_THOSE_OF_A_LOG = ("logs", "dataset", "preset", "schema")

# The docstring is the help of `drpo train`, and names come from where they are defined.
TrainConfig.__doc__ = (TrainConfig.__doc__ or "").format(
    kinds=describe_kinds(),
    names=", ".join(NAMES),
    modelled=", ".join(following_model(NAMES)),
    usual=", ".join(PolicyKind.objectives),
)
