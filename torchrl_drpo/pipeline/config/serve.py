"""The settings of the commands that take a trained policy: evaluate, recommend and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torchrl_drpo.pipeline.config.log import check_dataset, check_split
from torchrl_drpo.pipeline.config.words import Id, Log, Name, Names


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a trained policy on the last days of a log.

    Attributes:
        checkpoint: folder of the policy, as `drpo train` writes it.
        logs: Parquet or CSV file, folder, glob or URI of the log.
        dataset: or: a published log by its name; the columns mean what they did in training.
        root: folder of the published files.
        test_days: the last so many days are evaluated, and quality is fitted on the rows before;
            where neither it nor the two below are given, what was held out in training is.
        test_start: or: the first day that is evaluated, YYYY-MM-DD.
        test_share: or: about this share of the rows.
        test_by: how a share is taken: the log's latest rows ("time", the default), each user's
            latest ("user"), or any ("random").
        test_seed: of the draw.
        labels: 0/1 columns of the schema for GAUC; all of them by default.
        ks: list lengths of the hit rates; the table shows the last one.
        details: also metrics by the user's activity and by the item's popularity, what the policy's
            lists do to the catalogue (coverage, Gini, novelty, share of the popular, diversity)
            and, where the log has propensities, metrics as they would be had every item been shown
            alike.
        ope: also estimate what the policy would have earned, from the log's own actions; where no
            such estimate means anything, the exit code is 1.
        behavior: how likely the logging policy was to take its actions, for --ope: "logged" takes
            the log's propensities, "fitted" those of a model that is fitted to the held-out rows,
            "weights" reads none and fits the weights themselves, by telling the policy's actions
            from the logged ones (better for a logger of thousands of items and a good reward
            model), "auto" the logged ones where there are any, else fitted ones.
        reward_model: for --ope: "auto" also gives the estimates that follow a model of the reward,
            the one that the policy's run has left or else one that is fitted to the log's earlier
            days; "none" leaves them out.
        draws: so many draws of the policy a row give the reward model's expectation for --ope; 0
            adds up over all items, or draws 16 of a policy over semantic IDs.
        ope_rows: --ope scores so many held-out rows at most, drawn at random.
        tau: of a tilted policy: another temperature of exp(Q / tau) than it was saved with.
        guidance: of a policy that is conditioned on quality: how far it is guided away from the
            worst level, likewise.
        uphill_step: of a tilted policy over item vectors: how far its mean moves, likewise.
        allow_code: encoders of your own, mymodule:make_encoder, that the policy may name: their
            modules are imported, which runs them. No other code is.
        plot: PNG file: of --ope the estimates with their intervals, and the weights that they rest
            on; of --details the hit rates by activity and popularity.
        json: print the results as JSON instead of a table.
    """

    checkpoint: Path
    logs: Log = None
    dataset: Name = None
    root: Path | None = None
    test_days: int | None = None
    test_start: Name = None
    test_share: float | None = None
    test_by: Literal["time", "user", "random"] | None = None
    test_seed: int = 0
    labels: Names = None
    ks: tuple[int, ...] = (10, 50)
    details: bool = False
    ope: bool = False
    behavior: Literal["auto", "logged", "fitted", "weights"] = "auto"
    reward_model: Literal["auto", "none"] = "auto"
    draws: int = 0
    ope_rows: int = 50_000
    tau: float | None = None
    guidance: float | None = None
    uphill_step: float | None = None
    allow_code: tuple[str, ...] = ()
    plot: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        check_dataset(self)
        check_split(self)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must name list lengths of at least 1, got {self.ks}")
        if self.draws < 0:
            raise ValueError(f"draws must be at least 0 a row, got {self.draws}")
        if self.ope_rows < 2:
            raise ValueError(f"ope_rows must be at least 2, got {self.ope_rows}")
        if self.plot is not None and not (self.ope or self.details):
            raise ValueError("--plot draws what --ope and --details find: ask for one of them")


@dataclass(frozen=True)
class RecommendConfig:
    """Recommend items to one user, to a file of users, or to whoever asks on standard input.

    Attributes:
        checkpoint: directory of a trained policy, as `drpo train` writes it.
        user: the user's id, as in the log; left out, the list for somebody of whom nothing is
            known.
        history: item ids that the user has seen, oldest first, instead of what the log knows; of
            anybody, with no `--user`.
        k: how many items.
        exclude_seen: leave out what the user has seen.
        cold_start: give an unknown user the list for an empty history, instead of an error.
        json: print the list as JSON instead of a table.
        context: the user's situation now, instead of the latest one in the log: a value of each
            context column, in the schema's order, as in the log. One that the log does not hold
            counts as unknown.
        features: the same of the numeric features, in their raw units.
        users: Parquet, CSV or text (one id a line) file of users, with columns of context and
            features where these are another than the latest ones in the log. Needs --output.
        output: the file that their lists are written to, Parquet or CSV by its name: user, rank,
            item, score, and the propensity where lists are drawn.
        serve: answer requests, a line of JSON each, on standard input: {"user": ..., "k": ...,
            "history": [...], "context": [...], "features": [...], "exclude": [...], "allow":
            [...], "sample": ..., "temperature": ..., "top_p": ...}, all of them optional.
        exclude: items that must not come back.
        allow: file of the only items that may: Parquet, CSV or text, one id a line.
        sample: draw the lists instead of taking the best items, and say how likely each item was
            at its place, given the items before it.
        temperature: of the draws; divides the policy's logits (of a policy over semantic IDs:
            those of every code).
        top_p: draw from the likeliest items that reach this probability together (of a policy
            over semantic IDs: at every code), at least k of them.
        seed: of the draws; another one each time by default.
        index: how the best items are found: exact, or an index of faiss, whose recall is said.
        tau: of a tilted policy: another temperature of exp(Q / tau) than it was saved with.
        guidance: of a policy that is conditioned on quality: how far it is guided away from the
            worst level, likewise.
        uphill_step: of a tilted policy over item vectors: how far its mean moves, likewise.
        allow_code: encoders of your own, mymodule:make_encoder, that the policy may name: their
            modules are imported, which runs them. No other code is.
    """

    checkpoint: Path
    user: Id = None
    history: tuple[str, ...] = ()
    k: int = 10
    exclude_seen: bool = True
    cold_start: bool = False
    json: bool = False
    context: tuple[str, ...] = ()
    features: tuple[float, ...] = ()
    users: Path | None = None
    output: Path | None = None
    serve: bool = False
    exclude: tuple[str, ...] = ()
    allow: Path | None = None
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    index: Literal["exact", "flat", "ivf", "hnsw"] = "exact"
    tau: float | None = None
    guidance: float | None = None
    uphill_step: float | None = None
    allow_code: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        asked = {"user": self.user is not None, "users": self.users is not None}
        asked["serve"] = self.serve
        several = [f"--{name}" for name, given in asked.items() if given]
        if len(several) > 1:
            raise ValueError(f"{' and '.join(several)} exclude each other: ask for one of them")
        if (self.users is None) != (self.output is None):
            raise ValueError("--users and --output go together: whom to serve, and where to write")
        if (self.users is not None or self.serve) and self.history:
            raise ValueError(
                "--history is of one user: those of a file are the log's own, and each request of "
                "--serve says its own"
            )
        if (self.users is not None or self.serve) and (self.context or self.features):
            raise ValueError(
                "--context and --features are of one user: give them in the file's columns, or in "
                "each request"
            )
        if not 0 < self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise ValueError(
                "--temperature must be above 0 and --top-p in (0, 1], got "
                f"{self.temperature} and {self.top_p}"
            )
        if not self.sample and (self.temperature, self.top_p, self.seed) != (1.0, 1.0, None):
            raise ValueError(
                "--temperature, --top-p and --seed are of drawn lists: give --sample, too"
            )
        if self.sample and self.index != "exact":
            raise ValueError("--sample draws from all items; leave --index out")


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained policy as a graph that runs without this package.

    Attributes:
        checkpoint: directory of a trained policy, as `drpo train` writes it.
        output: the folder: graphs, item ids, and a manifest with inputs, outputs and digests.
        k: length of the lists.
        beam: of a policy over semantic IDs: prefixes kept from a code to the next; 0 for all.
        exclude: so many items can be left out for a user, an input of its own; 0 for none.
        formats: pt2 is torch.export's own archive; onnx needs the extra [onnx].
        tau: of a tilted policy: another temperature of exp(Q / tau) than it was saved with.
        guidance: of a policy that is conditioned on quality: how far it is guided away from the
            worst level, likewise.
        uphill_step: of a tilted policy over item vectors: how far its mean moves, likewise.
        allow_code: encoders of your own, mymodule:make_encoder, that the policy may name: their
            modules are imported, which runs them. No other code is.
        json: print the manifest.
    """

    checkpoint: Path
    output: Path
    k: int = 10
    beam: int | None = None
    exclude: int = 0
    formats: tuple[Literal["pt2", "onnx"], ...] = ("pt2",)
    tau: float | None = None
    guidance: float | None = None
    uphill_step: float | None = None
    allow_code: tuple[str, ...] = ()
    json: bool = False

    def __post_init__(self) -> None:
        if self.k < 1 or self.exclude < 0 or (self.beam is not None and self.beam < 0):
            raise ValueError(
                "--k must be at least 1, --exclude and --beam at least 0, got "
                f"{self.k}, {self.exclude} and {self.beam}"
            )
