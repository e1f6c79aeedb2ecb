"""Features that know too much: an item's, of the test period; a row's, of what became of the row.

Both are found where they are declared to know, or behave as if they did.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..conversion.scan import Outline
from ..conversion.side_tables import item_numbers
from ..schema import LogSchema
from ..sources.arrow import to_float
from .correlation import partial_rank_correlation, rank_correlation_share

#: A partial rank correlation of at least so much, at so many standard errors, is reported.
MIN_CORRELATION, MIN_SIGMAS, MIN_ITEMS = 0.1, 5.0, 50
#: A row's feature is reported from this share of the largest rank correlation that it could have,
#: at as many standard errors of no correlation (``1 / sqrt(rows - 1)``), where at least so many
#: rows have another value than the commonest: one click may fall on a rare feature by chance.
MIN_SHARE, MIN_VARIED = 0.95, 10
Finding = tuple[str, str, str, list[dict[str, Any]]]


def leaking_features(
    schema: LogSchema,
    outline: Outline,
    item_days: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    first_test_day: int | None,
) -> list[Finding]:
    """What is known, and what is suspected, of the item table's features.

    A feature whose ``features_until`` reaches the test period is an error. Where nothing is
    declared, or beside it, a feature is suspected if it tells how often items are shown in the
    test period *beyond* what their training rows tell: a partial rank correlation. An honest
    feature may know more of an item's future than the past log does, so that is a warning.

    Args:
        schema: with an item table that has features.
        outline: of the log.
        item_days: (item numbers, days, counts) of the log's rows, in pieces.
        first_test_day: days since 1970; without one nothing can be said.

    Returns:
        (severity, kind, advice, examples) of each finding.
    """
    table = schema.items
    if first_test_day is None or table is None or outline.item_table is None:
        return []
    findings: list[Finding] = []
    if table.features_until is not None:
        until = int(np.datetime64(table.features_until, "D").astype(np.int64))
        if until >= first_test_day:
            start = np.datetime64(first_test_day, "D")
            advice = (
                f"these aggregates were computed up to {table.features_until}, but the test period "
                f"starts on {start}: a policy that reads them has seen the answers; leave them out"
            )
            examples = [{"feature": name} for name in table.features]
            findings.append(("error", "item features leak", advice, examples))
    train, test = _counts(len(outline.catalogues["items"]), item_days, first_test_day)
    suspects = []
    for name, value in _features(schema, outline, outline.catalogues["items"]).items():
        known = np.isfinite(value) & (train + test > 0)
        correlation = partial_rank_correlation(value[known], test[known], train[known])
        count = int(known.sum())
        sigmas = correlation * np.sqrt(max(count - 3, 0) / max(1 - correlation**2, 1e-12))
        if count >= MIN_ITEMS and abs(correlation) >= MIN_CORRELATION and abs(sigmas) >= MIN_SIGMAS:
            suspects.append({"feature": name, "partial correlation": round(correlation, 3)})
    if suspects:
        advice = (
            "these features tell how often items are shown in the test period beyond what the "
            "training rows tell; were they computed over it?"
        )
        findings.append(("warning", "item features may leak", advice, suspects))
    return findings


def telling_features(schema: LogSchema, features: np.ndarray, value: np.ndarray) -> list[Finding]:
    """Row features that put rows in the order of the value that the quality is computed from.

    The schema refuses the feedback columns themselves; this finds their copies, and what was
    computed from one of them alone. What two features tell together goes unseen. A state may
    happen to decide the outcome, so that is a warning.

    Args:
        schema: with features.
        features: numbers of some rows ``[N, F]``, in the schema's order.
        value: what their quality is computed from, ``[N]``: a formula's value, what a percentile
            ranks, the one-step reward of a return.

    Returns:
        (severity, kind, advice, examples) of the finding, if there is one.
    """
    suspects = []
    for name, feature in zip(schema.features, features.T, strict=True):
        share, correlation = rank_correlation_share(feature, value)
        clear = abs(correlation) * np.sqrt(max(len(value) - 1, 0)) >= MIN_SIGMAS
        if (
            abs(share) >= MIN_SHARE
            and clear
            and min(_varied(feature), _varied(value)) >= MIN_VARIED
        ):
            suspects.append({"feature": name, "share of the possible": round(share, 3)})
    advice = (
        "these features put rows in the order of what the quality is computed from, up to this "
        "share of the largest rank correlation possible; were they known before the choice?"
    )
    return [("warning", "row features may leak", advice, suspects)] if suspects else []


def _varied(values: np.ndarray) -> int:
    """How many differ from the commonest; not for empty arrays."""
    return len(values) - int(np.unique(values, return_counts=True)[1].max())


def _counts(
    items: int, item_days: list[tuple[np.ndarray, np.ndarray, np.ndarray]], first_test_day: int
) -> tuple[np.ndarray, np.ndarray]:
    train, test = np.zeros(items), np.zeros(items)
    for item, day, count in item_days:
        late = day >= first_test_day
        np.add.at(train, item[~late], count[~late])
        np.add.at(test, item[late], count[late])
    return train, test


def _features(schema: LogSchema, outline: Outline, items: Catalogue) -> dict[str, np.ndarray]:
    table = schema.items
    out = {name: np.full(len(items), np.nan) for name in table.features}
    outline.item_table.kinds([table.id, *table.features])
    for batch in outline.item_table.batches([table.id, *table.features]):
        number = item_numbers(batch.table.column(table.id), items)
        for name in table.features:
            out[name][number] = to_float(batch.table.column(name))
    return out
