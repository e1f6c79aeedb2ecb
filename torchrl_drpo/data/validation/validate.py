"""`validate_log`: every fault of a log against its schema, counted, with examples; changes nothing.

Errors are what a conversion refuses (or drops, if told so); warnings are what it mends or cannot
judge: rows out of order, duplicates, items that the item table lacks, features that may leak
(an item's the test period, a row's its outcome).
"""

from __future__ import annotations

from typing import Any

from ..conversion.opening import open_source
from ..conversion.scan import find_test_start, scan_log
from ..schema import LogSchema
from ..sources import LogError
from .checks import Checks
from .report import Fault, ValidationReport


def validate_log(
    source: Any,
    schema: LogSchema,
    *,
    test_days: int | None = None,
    test_start: str | None = None,
    max_examples: int = 3,
) -> ValidationReport:
    """Reads a log twice and reports every fault.

    Memory: one batch, the catalogues, the features of at most 65,536 rows (every k-th of a longer
    log), and where duplicates are looked for some twenty bytes a row.

    Args:
        source: as for :func:`~torchrl_drpo.data.convert.convert_log`.
        schema: what the columns mean.
        test_days: the last so many days are the test period, for the leakage check.
        test_start: or: its first day, ``"YYYY-MM-DD"``.
        max_examples: most examples of each fault.

    Examples:
        >>> import pandas as pd
        >>> times = [9e8, 9e8, 1e9, 1e9]
        >>> log = pd.DataFrame(dict(u=[1, 1, 2, 2], i=[3, 3, 4, 3], t=times, r=[1, 1, None, 0]))
        >>> schema = LogSchema(user="u", item="i", time="t", quality="r")
        >>> report = validate_log(log, schema)
        >>> report.ok, [(fault.kind, fault.count) for fault in report.faults]
        (False, [('reward is not finite', 1), ('duplicate rows', 1)])
    """
    try:
        log = open_source(source, schema)
        schema = schema.named(log.columns.names)
        outline = scan_log(log, schema)
        first_test_day = find_test_start(outline.last_day, test_days, test_start)
    except (LogError, FileNotFoundError) as error:
        unreadable = Fault("unreadable", "error", 1, str(error))
        return ValidationReport(faults=[unreadable])
    checks = Checks(schema, log, outline, max_examples)
    try:
        checks.read()
    except LogError as error:
        checks.add("unreadable", "error", 1, str(error))
    checks.finish(first_test_day)
    order = {"error": 0, "warning": 1}
    return ValidationReport(
        files=len(log.files),
        rows=checks.rows,
        users=len(outline.catalogues.get("users", ())),
        items=len(outline.catalogues["items"]),
        faults=sorted(checks.faults.values(), key=lambda fault: order[fault.severity]),
    )
