"""The settings of every command that reads a log: which one, and what its columns mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchrl_drpo.data.schema.split import Split
from torchrl_drpo.pipeline.config.words import Log, Name, Names

if TYPE_CHECKING:
    from torchrl_drpo.data import LogSchema


#: What says which rows are held out, in the settings of every command that reads a log.
SPLIT = ("test_days", "test_start", "test_share", "test_by", "test_seed")
#: The share that is held out at random where nobody says anything and the log has no times.
SHARE = 0.2


def check_split(config: Any) -> None:
    """Raises ``ValueError`` for settings of what is held out that no log could meet."""
    Split(**{name.removeprefix("test_"): getattr(config, name) for name in SPLIT})


def split_of(config: Any, schema: LogSchema) -> dict[str, Any]:
    """The keywords of a conversion that hold out what the settings say, or what a log allows."""
    asked = {name: getattr(config, name) for name in SPLIT}
    given = any(asked[name] is not None for name in ("test_days", "test_start", "test_share"))
    if given or schema.split:
        return asked
    if schema.time or schema.date:
        return asked | {"test_days": "auto"}
    return asked | {"test_share": SHARE, "test_by": "random"}


@dataclass(frozen=True)
class SchemaConfig:
    """Which log, and what its columns mean.

    Attributes:
        logs: Parquet or CSV file, folder, glob or URI of the log.
        preset: name of a published log's schema, such as kuairand.
        schema: JSON file with the log's schema (LogSchema.to_json), instead of a preset.
        test_days: the last so many days are held out; where nothing else is said and the log has
            times, 3, or fewer where less than half of its days would be left to train on. Where the
            schema names a split column, that one says it.
        test_start: or: the first day held out, YYYY-MM-DD.
        test_share: or: about this share of the rows; 0.2 at random where a log has no times.
        test_by: how a share is taken: the log's latest rows ("time", the default), each user's
            latest ("user"), or any ("random").
        test_seed: of the draw.
    """

    logs: str
    preset: Name = None
    schema: Path | None = None
    test_days: int | None = None
    test_start: Name = None
    test_share: float | None = None
    test_by: Literal["time", "user", "random"] | None = None
    test_seed: int = 0

    def __post_init__(self) -> None:
        if (self.preset is None) == (self.schema is None):
            raise ValueError(
                "say what the log's columns mean, by a preset (--preset NAME) or a schema file "
                "(--schema FILE), and not by both"
            )
        check_split(self)

    def log_schema(self) -> LogSchema:
        """The schema that was asked for.

        Raises:
            ValueError: for an unknown preset or a file that is not a schema.
        """
        from torchrl_drpo.data import LogSchema

        if self.preset is not None:
            return LogSchema.preset(self.preset)
        assert self.schema is not None  # __post_init__ saw to it
        try:
            return LogSchema.from_json(self.schema.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"cannot read the schema {self.schema}: {error.strerror}") from None


def check_dataset(config: Any, *others: str) -> None:
    """Raises ``ValueError`` unless a command names a log, or a published one with its folder."""
    from torchrl_drpo.data.published import find_published

    if config.dataset is None:
        if config.root is not None:
            raise ValueError("--root is the folder of a published log: name it (--dataset NAME)")
        if config.logs is None:
            raise ValueError(
                "name a log (--logs LOG), or a published one and the folder of its files "
                "(--dataset NAME --root FOLDER)"
            )
        return
    source = find_published(config.dataset).source
    given = [name for name in ("logs", *others) if getattr(config, name) is not None]
    if given:
        raise ValueError(
            f"--dataset {config.dataset} says itself which files there are and what their columns "
            f"mean; leave out --{given[0]}"
        )
    if config.root is None:
        raise ValueError(
            f"--dataset {config.dataset} needs --root FOLDER, of its files as they are published; "
            f"download {source}"
        )


def log_files(config: Any) -> str | list[str]:
    """What a command is to read: the log that it names, or the files of the published one."""
    from torchrl_drpo.data.published import published_log

    return config.logs or published_log(config.dataset, config.root)[0]


@dataclass(frozen=True)
class DatasetConfig(SchemaConfig):
    """Which log, named by its files or by its name, and what its columns mean.

    Attributes:
        logs: Parquet or CSV file, folder, glob or URI of the log.
        dataset: or: a published log by its name: movielens, kuairand-pure, open-bandit, amazon-sid.
        root: folder of the published files, which nothing here downloads.
    """

    logs: Log = None
    dataset: Name = None
    root: Path | None = None

    def __post_init__(self) -> None:
        check_dataset(self, "preset", "schema")
        if self.dataset is None:
            super().__post_init__()
        check_split(self)

    def log_schema(self) -> LogSchema:
        """The schema that was asked for, or the published log's."""
        from torchrl_drpo.data.published import published_log

        if self.dataset is None:
            return super().log_schema()
        assert self.root is not None  # __post_init__ saw to it
        return published_log(self.dataset, self.root)[1]


@dataclass(frozen=True)
class LogConfig(DatasetConfig):
    """Which log, and what a policy reads of it.

    Attributes:
        history: length of the history that a policy reads.
        labels: 0/1 columns of the schema for GAUC; all of them by default.
        bad_rows: "error" stops at the first faulty row, such as one without an item; "drop" counts
            and leaves out. What training left out, `drpo evaluate` leaves out too.
    """

    history: int = 20
    labels: Names = None
    bad_rows: Literal["error", "drop"] = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.history < 1:
            raise ValueError(f"history must be at least 1, got {self.history}")


@dataclass(frozen=True)
class ValidateConfig(DatasetConfig):
    """Report every fault of a log, with counts and example rows; exit code 1 if there are errors.

    Attributes:
        store: folder of a converted log, every byte of which is compared with what was written,
            instead of a log.
        examples: most examples of each fault.
        json: print the report as JSON.
    """

    store: Path | None = None
    examples: int = 3
    json: bool = False

    def __post_init__(self) -> None:
        named = any(each is not None for each in (self.logs, self.dataset, self.root))
        if named == (self.store is not None):
            raise ValueError(
                "name a log (--logs LOG, or --dataset NAME --root FOLDER) or a converted one "
                "(--store FOLDER), and not both"
            )
        if self.store is None:
            super().__post_init__()


@dataclass(frozen=True)
class ConvertConfig(SchemaConfig):
    """Convert a log into memory-mapped columns for RecReplayBuffer.open; resumes when killed.

    Attributes:
        root: folder of the result.
        bad_rows: "error" stops at the first faulty row, "drop" counts and leaves out.
        overwrite: replace a different conversion, once the new one is complete.
        workers: processes that share the work; the result is the same.
        json: print the report as JSON.
    """

    root: Path = Path("converted")
    bad_rows: Literal["error", "drop"] = "error"
    overwrite: bool = False
    workers: int = 1
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, got {self.workers}")


@dataclass(frozen=True)
class SimulateConfig:
    """Write a simulated log (RecSim, arXiv 2602.10430) as Parquet, its schema and items beside it.

    The user's state is declared as the rows' features, the items' vectors as their embeddings.

    Attributes:
        output: Parquet file; the schema goes to the same name with .schema.json, the items and
            their vectors to the same name with .items.parquet, which the schema names: keep the
            three in one folder, and name this file, not the folder, as the log.
        rows: logged rows.
        scenario: logging mixture: "extreme" (90% random) or "medium".
        setting: simulator setting: "table" or "collapse".
        seed: of the world and of the log.
    """

    output: Path = Path("recsim.parquet")
    rows: int = 100_000
    scenario: Literal["extreme", "medium"] = "extreme"
    setting: Literal["table", "collapse"] = "table"
    seed: int = 0
