"""`validate_log`: every fault of a log against its schema, counted, with examples; changes nothing.

Errors are what a conversion refuses (or drops, if told so); warnings are what it mends or cannot
judge: rows out of order, duplicates, items that the item table lacks, features that may leak
(an item's the test period, a row's its outcome).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from ..conversion.opening import open_source
from ..conversion.parts import Parts
from ..conversion.scan import scan_log
from ..conversion.split import check_split
from ..schema import LogSchema
from ..schema.split import Split
from ..sources import LogError
from .checks import Checks
from .report import Fault, ValidationReport


def validate_log(
    source: Any,
    schema: LogSchema,
    *,
    test_days: int | Literal["auto"] | None = None,
    test_start: str | None = None,
    test_share: float | None = None,
    test_by: str | None = None,
    test_seed: int = 0,
    max_examples: int = 3,
    progress: Callable[[str, int, int], None] | None = None,
) -> ValidationReport:
    """Reads a log twice and reports every fault.

    Memory: one batch, the catalogues, the features of at most 65,536 rows (every k-th of a longer
    log), and where duplicates are looked for some twenty bytes a row.

    Args:
        source: as for :func:`~torchrl_drpo.data.convert.convert_log`.
        schema: what the columns mean.
        test_days: the last so many days are the test period, for the leakage check; ``"auto"``
            as for :func:`~torchrl_drpo.data.convert_log`.
        test_start: or: its first day, ``"YYYY-MM-DD"``.
        test_share: or: about this share of the rows, taken as
        test_by: ``"time"`` (the log's latest rows, the default), ``"user"`` (each user's latest)
            or ``"random"`` says, with
        test_seed: the draw's seed.
        max_examples: most examples of each fault.
        progress: called with what is done (``"scan"``, then ``"check"``), how much, and of how
            much.

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
        split = Split(test_days, test_start, test_share, test_by, test_seed)
        check_split(split, schema)
        log = open_source(source, schema)
        schema = schema.named(log.columns.names)
        scanned = None if progress is None else partial(progress, "scan")
        outline = scan_log(log, schema, split=split, progress=scanned)
        splits = outline.catalogues.get("splits")
        parts = Parts.of_log(split, splits, outline.days, outline.times)
    except (LogError, FileNotFoundError) as error:
        unreadable = Fault("unreadable", "error", 1, str(error))
        return ValidationReport(faults=[unreadable])
    checks = Checks(schema, log, outline, max_examples)
    try:
        checks.read(None if progress is None else partial(progress, "check"))
    except LogError as error:
        checks.add("unreadable", "error", 1, str(error))
    checks.finish(parts)
    order = {"error": 0, "warning": 1}
    return ValidationReport(
        files=len(log.files),
        rows=checks.rows,
        users=len(outline.catalogues.get("users", ())),
        items=len(outline.catalogues["items"]),
        faults=sorted(checks.faults.values(), key=lambda fault: order[fault.severity]),
    )
