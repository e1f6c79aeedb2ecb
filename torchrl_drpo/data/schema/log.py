"""`LogSchema`: what the columns of a log mean, declared once and saved beside the data as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from torchrl_drpo.spelling import did_you_mean

from .checks import HISTORY_ROWS, check_parts
from .files import TextFiles
from .lists import Lists
from .presets import PRESETS
from .quality import Quality, RewardFormula
from .tables import InitialHistory, ItemTable
from .text import SCHEMA_VERSION, as_data, declared, from_data, parse
from .types import check_types, shown

_CLASSES = {
    "Quality": Quality,
    "ItemTable": ItemTable,
    "InitialHistory": InitialHistory,
    "TextFiles": TextFiles,
    "Lists": Lists,
}


@dataclass(frozen=True)
class LogSchema:
    """Names and meanings of a log's columns.

    A log with ``user`` and ``time`` is stored by user and, within a user, by time, whatever the
    order of its rows (which counts only within a ``slate`` without ``position``); histories are
    then the user's rows of earlier instants and slates. A log
    without a user, or with a ``history`` column, is stored as logged, and every row is a trajectory
    of its own.

    Args:
        item: the item that was shown: any integer or string.
        quality: what the row was worth; becomes ``("next", "reward")``.
        user: who saw it: any integer or string.
        time: when: a number in ``time_unit``, an Arrow timestamp, or a text (``time_format``).
        time_unit: of an integer ``time``: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``, since 1970.
        time_format: how times are written that are texts, as for ``strptime``, such as
            ``"%m/%d/%Y %I:%M:%S %p"``; ISO 8601 by default.
        utc_offset_hours: local time minus UTC, for day boundaries, in [-24, 24]. With zero, the
            days of timestamps that carry a time zone are that zone's.
        date: the day of the row, where the log has one; else days follow from ``time``. YYYYMMDD,
            a text that begins with YYYY-MM-DD, an Arrow date, or a timestamp: the day that its
            own time zone shows.
        session: id of the session; a change of session ends a trajectory.
        session_gap: seconds of silence that end a trajectory, where no session is logged.
        slate: id of the list that the row was shown in; with ``position``, its place.
        position: place in the slate.
        propensity: probability with which the logging policy showed the item, in (0, 1].
        log_propensity: whether that column holds natural logarithms (at most 0). Rows bear the
            probability, ``propensity``, and its logarithm, ``log_propensity``, either way; the
            logarithm survives where the probability is below what float32 holds.
        policy: id of the logging policy: any integer or string.
        terminal: true where the trajectory ended for good (else it was only cut off).
        context: categorical columns known before the choice, any integers or strings.
        features: numeric columns known before the choice, finite; what a state consists of beside
            the history and the context (:attr:`ItemTable.features` are an item's, not a row's).
            Stored as float32, which rounds integers beyond 2**24.
        labels: numeric columns carried along unchanged under their own names, for evaluation; not
            the name of anything else in a sample, or that a loss reads.
        history: list column of item ids, oldest first, where every row brings its own history.
        split: column naming the part (such as "train", "valid", "test") that a row belongs to.
        duplicates: what exact duplicates of whole rows get: ``"drop"`` (counted and reported),
            ``"keep"`` or ``"error"``. Only logs with user and time can find them.
        items: the item table.
        initial_history: what users did before the log.
        history_rows: which rows enter histories: ``"all"``, ``"positive"`` (those whose quality's
            formula is above 0), or a formula over the log's columns, above 0 where a row enters.
        history_gap: seconds by which a row must be older to stand in another's history; with 0
            all rows of earlier times do, those of the same time never do.
        history_padding: an id in ``history`` lists that stands for no item, such as ``0`` or
            ``"[PAD]"``. Null, empty and negative entries never are items.
        files: what the log's text files leave open: names of the columns where they have no
            header, the delimiter, the encoding.
        lists: columns of lists, of which every entry is a row: items shown in one impression,
            events of one session. The schema's other fields mean the columns after that.

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
    time_format: str | None = None
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
    history_padding: int | str | None = None
    history_rows: str = "all"
    history_gap: float = 0.0
    files: TextFiles | None = None
    lists: Lists | None = None

    def __post_init__(self) -> None:
        if isinstance(self.quality, str):  # a bare formula is the common case
            object.__setattr__(self, "quality", RewardFormula(self.quality))
        check_types(self, classes=_CLASSES)
        _ = self.columns  # parses every formula now, not in the middle of a conversion
        check_parts(self)

    @property
    def by_user(self) -> bool:
        """Whether rows are stored by user and time; else as logged."""
        return self.user is not None and self.time is not None and self.history is None

    @property
    def history_formula(self) -> RewardFormula | None:
        """The formula of ``history_rows``, None where it is one of the words."""
        return None if self.history_rows in HISTORY_ROWS else RewardFormula(self.history_rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every log column that the schema reads, once, in a fixed order."""
        single = (
            self.user, self.item, self.time, self.date, self.session, self.slate, self.position,
            self.propensity, self.policy, self.terminal, self.history, self.split,
        )  # fmt: skip
        named = [name for name in single if name is not None]
        several = [*self.context, *self.features, *self.labels, *self.quality.columns]
        several += self.history_formula.columns if self.history_formula else ()
        return tuple(dict.fromkeys([*named, *several]))

    @property
    def ids(self) -> tuple[str, ...]:
        """Log columns whose values are names, not quantities: ``07`` and ``7`` are two of them.

        In CSV files they are text, unless every value is spelled as an integer is.
        """
        single = (
            self.user, self.item, self.session, self.slate, self.policy, self.split, self.date,
        )  # fmt: skip
        return tuple(dict.fromkeys([*(name for name in single if name), *self.context]))

    def named(self, columns: list[str]) -> LogSchema:
        """The schema for a log with these columns: a formula that equals a name is that column."""
        rows = self.history_formula
        changes = {} if rows is None else {"history_rows": rows.named(columns).formula}
        return self.replace(quality=self.quality.named(columns), **changes)

    @property
    def side_tables(self) -> tuple[str, ...]:
        """Paths of the tables beside the log, as the schema names them."""
        return tuple(table.path for table in (self.items, self.initial_history) if table)

    def to_json(self, indent: int | None = 2, *, compact: bool = False) -> str:
        """The schema as JSON text.

        Args:
            indent: as for ``json.dumps``.
            compact: leave out what holds a default, as one would write it by hand; else defaults
                are included (save those of fields that came later), and the text explains itself.
        """
        return json.dumps(declared(self) if compact else as_data(self), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> LogSchema:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ValueError: on other JSON, an unknown field, a value of a wrong type, another version.
        """
        return from_data(cls, parse(text))

    @classmethod
    def preset(cls, name: str) -> LogSchema:
        """The schema of a published log; see :data:`torchrl_drpo.data.schema.presets.PRESETS`."""
        if name not in PRESETS:
            known = ", ".join(sorted(PRESETS))
            raise ValueError(
                f"no preset {shown(name)}{did_you_mean(str(name), PRESETS)}; there are {known}"
            )
        return from_data(cls, {"version": SCHEMA_VERSION, **PRESETS[name]})

    def replace(self, **changes: Any) -> LogSchema:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)
