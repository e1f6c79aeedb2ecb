"""`LogSchema`: what the columns of a log mean, declared once and saved beside the data as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .quality import DURATION_BUCKET, USER, Percentile, Quality, ReturnToGo, RewardFormula
from .sources import TIME_TYPES_PER_SECOND as TIME_UNITS

SCHEMA_VERSION = 1
DUPLICATES = ("drop", "keep", "error")
_KINDS = {"formula": RewardFormula, "percentile": Percentile, "return_to_go": ReturnToGo}


@dataclass(frozen=True)
class ItemTable:
    """The table of items: one row an item.

    Args:
        path: its file (Parquet, CSV); relative paths start at the log's folder.
        id: column of the item id.
        codes: columns of a semantic ID, coarsest level first.
        embedding: a list column, one vector an item.
        features: numeric columns of an item, looked at by the validation's leakage check; no
            sample holds them (:attr:`LogSchema.features` are a row's).
        features_until: last day (``"YYYY-MM-DD"``) whose rows went into ``features`` that are
            aggregates. Features that reach into the test period tell the answers.
        required: whether a missing file is an error; else it is reported and left out.
    """

    path: str
    id: str
    codes: tuple[str, ...] = ()
    embedding: str | None = None
    features: tuple[str, ...] = ()
    features_until: str | None = None
    required: bool = True


@dataclass(frozen=True)
class InitialHistory:
    """What users did before the log begins: one row a user, a list of item ids, oldest first.

    Args:
        path: its file; relative paths start at the log's folder.
        user: column of the user id.
        items: list column of item ids.
        required: whether a missing file is an error; else it is reported and left out.
    """

    path: str
    user: str
    items: str
    required: bool = True


@dataclass(frozen=True)
class LogSchema:
    """Names and meanings of a log's columns.

    A log with ``user`` and ``time`` is stored by user and, within a user, by time (the log's own
    order breaks ties); histories are then the user's earlier rows. A log without a user, or with
    a ``history`` column, is stored as logged, and every row is a trajectory of its own.

    Args:
        item: the item that was shown: any integer or string.
        quality: what the row was worth; becomes ``("next", "reward")``.
        user: who saw it: any integer or string.
        time: when: an integer in ``time_unit``, or an Arrow timestamp.
        time_unit: of an integer ``time``: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``, since 1970.
        utc_offset_hours: local time minus UTC, for day boundaries.
        date: the day of the row as YYYYMMDD (or an Arrow date), where the log has one; else days
            follow from ``time`` and ``utc_offset_hours``.
        session: id of the session; a change of session ends a trajectory.
        session_gap: seconds of silence that end a trajectory, where no session is logged.
        slate: id of the list that the row was shown in; with ``position``, its place.
        position: place in the slate.
        propensity: probability with which the logging policy showed the item, in (0, 1].
        log_propensity: whether that column holds natural logarithms.
        policy: id of the logging policy: any integer or string.
        terminal: true where the trajectory ended for good (else it was only cut off).
        context: categorical columns known before the choice, any integers or strings.
        features: numeric columns known before the choice, finite; what a state consists of beside
            the history and the context (:attr:`ItemTable.features` are an item's, not a row's).
            Stored as float32, which rounds integers beyond 2**24.
        labels: numeric columns carried along unchanged, for evaluation.
        history: list column of item ids, oldest first, where every row brings its own history.
        split: column naming the part (such as "train", "valid", "test") that a row belongs to.
        duplicates: what exact duplicates of whole rows get: ``"drop"`` (counted and reported),
            ``"keep"`` or ``"error"``. Only logs with user and time can find them.
        items: the item table.
        initial_history: what users did before the log.

    Raises:
        ValueError: if the parts do not fit together; the message says which and what to do.

    Examples:
        >>> schema = LogSchema(user="u", item="i", time="t", quality=RewardFormula("click"))
        >>> LogSchema.from_json(schema.to_json()) == schema
        True
        >>> LogSchema.preset("kuairand").item
        'video_id'
        >>> LogSchema(user="u", item="i", time="t", quality="click", features=("age", "click"))
        Traceback (most recent call last):
        ValueError: feature 'click' tells the answer: the quality is computed from it...
    """

    item: str
    quality: Quality = field(default_factory=lambda: RewardFormula("reward"))
    user: str | None = None
    time: str | None = None
    time_unit: str = "s"
    utc_offset_hours: float = 0.0
    date: str | None = None
    session: str | None = None
    session_gap: float | None = None
    slate: str | None = None
    position: str | None = None
    propensity: str | None = None
    log_propensity: bool = False
    policy: str | None = None
    terminal: str | None = None
    context: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    history: str | None = None
    split: str | None = None
    duplicates: str = "drop"
    items: ItemTable | None = None
    initial_history: InitialHistory | None = None

    def __post_init__(self) -> None:
        if isinstance(self.quality, str):  # a bare formula is the common case
            object.__setattr__(self, "quality", RewardFormula(self.quality))
        _ = self.quality.columns  # parses every formula now, not in the middle of a conversion
        if self.time_unit not in TIME_UNITS:
            raise ValueError(f"time_unit must be one of {list(TIME_UNITS)}, got {self.time_unit!r}")
        if self.duplicates not in DUPLICATES:
            raise ValueError(f"duplicates must be one of {DUPLICATES}, got {self.duplicates!r}")
        if self.session and self.session_gap is not None:
            raise ValueError("give `session` or `session_gap`, not both: each ends trajectories")
        if self.session_gap is not None and not self.session_gap > 0:
            raise ValueError(f"session_gap must be above 0 seconds, got {self.session_gap}")
        if not self.by_user:
            self._check_as_logged()
        self._check_percentile()
        self._check_features()
        reserved = {"action", "user", "observation", "next", "index", "time", "trajectory_id"}
        clash = reserved & set(self.labels)
        if clash:
            raise ValueError(f"labels {sorted(clash)} collide with sampled keys; rename the column")

    def _check_as_logged(self) -> None:
        if self.duplicates != "keep":
            raise ValueError(
                f"duplicates={self.duplicates!r} needs `user` and `time` columns and no `history` "
                "column: else two equal rows may be two events; say duplicates='keep'"
            )
        for name in ("session", "session_gap", "initial_history"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} needs `user` and `time` columns and no `history` column, so that "
                    "rows can be put in order"
                )
        if isinstance(self.quality, ReturnToGo):
            raise ValueError("a return-to-go needs `user` and `time` columns: no trajectories here")

    def _check_percentile(self) -> None:
        if not isinstance(self.quality, Percentile):
            return
        known = {USER, DURATION_BUCKET, *self.context}
        unknown = [key for key in self.quality.by if key not in known]
        if unknown:
            raise ValueError(
                f"Percentile: by={self.quality.by} names {unknown}, expected 'user', "
                f"{DURATION_BUCKET!r} or one of the context columns {list(self.context)}"
            )
        if USER in self.quality.by and not self.by_user:
            raise ValueError("a percentile within the user needs `user` and `time` columns")

    def _check_features(self) -> None:
        if isinstance(self.features, str):
            raise ValueError(
                f"features must be a tuple of column names, got {self.features!r}; write "
                f"features=({self.features!r},)"
            )
        answers = {self.item: "it is the choice", self.propensity: "it is the choice's probability"}
        answers |= {self.terminal: "it says what followed"}
        answers |= dict.fromkeys(self.labels, "it is a label")
        answers |= dict.fromkeys(self.quality.columns, "the quality is computed from it")
        for place, name in enumerate(self.features):
            if name in answers:
                raise ValueError(
                    f"feature {name!r} tells the answer: {answers[name]}. Leave it out; a column "
                    "that was known before the choice all the same needs a second name in the log"
                )
            if name in self.features[:place]:
                raise ValueError(f"feature {name!r} is named twice; each feature is one column")

    @property
    def by_user(self) -> bool:
        """Whether rows are stored by user and time; else as logged."""
        return self.user is not None and self.time is not None and self.history is None

    @property
    def columns(self) -> tuple[str, ...]:
        """Every log column that the schema reads, once, in a fixed order."""
        single = (
            self.user, self.item, self.time, self.date, self.session, self.slate, self.position,
            self.propensity, self.policy, self.terminal, self.history, self.split,
        )  # fmt: skip
        named = [name for name in single if name is not None]
        several = [*self.context, *self.features, *self.labels, *self.quality.columns]
        return tuple(dict.fromkeys([*named, *several]))

    @property
    def side_tables(self) -> tuple[str, ...]:
        """Paths of the tables beside the log, as the schema names them."""
        return tuple(table.path for table in (self.items, self.initial_history) if table)

    def to_json(self, indent: int | None = 2) -> str:
        """The schema as JSON text, defaults included (save empty features): it explains itself."""
        data = dataclasses.asdict(self)
        kind = next(name for name, cls in _KINDS.items() if type(self.quality) is cls)
        data["quality"] = {"kind": kind, **data["quality"]}
        if not self.features:  # logs converted before there were features keep their fingerprint
            del data["features"]
        return json.dumps({"version": SCHEMA_VERSION, **data}, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> LogSchema:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ValueError: on other JSON, an unknown field or another version.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a log schema must be JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("version", None) != SCHEMA_VERSION:
            raise ValueError(
                f'a log schema is a JSON object with "version": {SCHEMA_VERSION}; write one with '
                "LogSchema(...).to_json()"
            )
        if isinstance(data.get("quality"), dict):
            quality = dict(data["quality"])
            kind = _KINDS.get(quality.pop("kind", None))
            if kind is None:
                raise ValueError(f"quality.kind must be one of {list(_KINDS)}")
            data["quality"] = _build(kind, quality, "quality")
        for name, part in (("items", ItemTable), ("initial_history", InitialHistory)):
            if data.get(name) is not None:
                data[name] = _build(part, data[name], name)
        return _build(cls, data, "schema")

    @classmethod
    def preset(cls, name: str) -> LogSchema:
        """The schema of a published log; see :data:`torchrl_drpo.data.presets.PRESETS`."""
        from .presets import PRESETS

        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
        return PRESETS[name]

    def replace(self, **changes: Any) -> LogSchema:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


def _build(cls: type, data: Mapping[str, Any], where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a JSON object, got {type(data).__name__}")
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"{where} has unknown fields {unknown}; known are {sorted(known)}")
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    try:
        return cls(**lists)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}") from None
