"""Whether the parts of a schema fit together; each message says which do not and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .keys import RESERVED
from .quality import DURATION_BUCKET, USER, Percentile, ReturnToGo
from .types import check_once, shown

if TYPE_CHECKING:
    from .log import LogSchema

#: Ticks a second of an integer time.
TIME_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
MAX_OFFSET_HOURS = 24
DUPLICATES = ("drop", "keep", "error")
#: Which rows enter histories, where no formula says it.
HISTORY_ROWS = ("all", "positive")


def check_parts(schema: LogSchema) -> None:
    """Raises ``ValueError`` where two parts contradict each other, or one is out of range."""
    for name, known in (("time_unit", tuple(TIME_UNITS)), ("duplicates", DUPLICATES)):
        value = getattr(schema, name)
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {shown(value)}")
    if not -MAX_OFFSET_HOURS <= schema.utc_offset_hours <= MAX_OFFSET_HOURS:
        raise ValueError(
            f"utc_offset_hours must lie in [-{MAX_OFFSET_HOURS}, {MAX_OFFSET_HOURS}], "
            f"got {shown(schema.utc_offset_hours)}"
        )
    if schema.session and schema.session_gap is not None:
        raise ValueError("give `session` or `session_gap`, not both: each ends trajectories")
    if schema.session_gap is not None and not schema.session_gap > 0:
        raise ValueError(f"session_gap must be above 0 seconds, got {schema.session_gap}")
    if not 0 <= schema.history_gap < float("inf"):
        raise ValueError(f"history_gap must be 0 seconds or more, got {schema.history_gap}")
    if not schema.by_user:
        _check_as_logged(schema)
    _check_percentile(schema)
    check_once(schema.context, "context column")
    check_once(schema.labels, "label")
    check_once(schema.features, "feature")
    _check_features(schema)
    clash = RESERVED & set(schema.labels)
    if clash:
        raise ValueError(
            f"labels {sorted(clash)} collide with sampled keys: a batch's entries of these names "
            "mean something else; rename the columns in the log"
        )


def _check_as_logged(schema: LogSchema) -> None:
    if schema.duplicates != "keep":
        raise ValueError(
            f"duplicates={schema.duplicates!r} needs `user` and `time` columns and no `history` "
            "column: else two equal rows may be two events; say duplicates='keep'"
        )
    for name in ("session", "session_gap", "initial_history"):
        if getattr(schema, name) is not None:
            raise ValueError(
                f"{name} needs `user` and `time` columns and no `history` column, so that "
                "rows can be put in order"
            )
    if schema.history_rows != "all" or schema.history_gap:
        raise ValueError(
            "history_rows and history_gap choose among a user's earlier rows: they need `user` and "
            "`time` columns and no `history` column"
        )
    if isinstance(schema.quality, ReturnToGo):
        raise ValueError("a return-to-go needs `user` and `time` columns: no trajectories here")


def _check_percentile(schema: LogSchema) -> None:
    if not isinstance(schema.quality, Percentile):
        return
    known = {USER, DURATION_BUCKET, *schema.context}
    unknown = [key for key in schema.quality.by if key not in known]
    if unknown:
        raise ValueError(
            f"Percentile: by={schema.quality.by} names {unknown}, expected 'user', "
            f"{DURATION_BUCKET!r} or one of the context columns {list(schema.context)}"
        )
    twice = sorted({USER, DURATION_BUCKET} & set(schema.context) & set(schema.quality.by))
    if twice:
        raise ValueError(
            f"Percentile: by={schema.quality.by} could mean the context column {twice[0]!r} or the "
            "key of that name; rename the column in the log"
        )
    if USER in schema.quality.by and not schema.by_user:
        raise ValueError("a percentile within the user needs `user` and `time` columns")


def _check_features(schema: LogSchema) -> None:
    answers = {schema.item: "it is the choice", schema.propensity: "it is the choice's probability"}
    answers |= {schema.terminal: "it says what followed"}
    answers |= dict.fromkeys(schema.labels, "it is a label")
    answers |= dict.fromkeys(schema.quality.columns, "the quality is computed from it")
    for name in schema.features:
        if name in answers:
            raise ValueError(
                f"feature {name!r} tells the answer: {answers[name]}. Leave it out; a column "
                "that was known before the choice all the same needs a second name in the log"
            )
