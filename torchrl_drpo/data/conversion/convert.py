"""`convert_log`: any log into memory-mapped columns, by an external sort that can be killed.

Four stages: *scan* numbers the ids; *partition* turns rows into records and spreads them over files
by user range; *sort* orders each file by (user, time), drops duplicates and counts the values that
a quality signal is fitted to; *write* puts columns and rewards where they belong. Each is a pure
function of a split of the log or of a user range, so that any number of workers may do them, on
any number of splits, and the bytes are the same. A worker's memory is bounded by one batch or one
partition and the catalogues. Everything happens in a ``.partial`` folder that becomes current in
one step; a run that was killed goes on behind what was finished, and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torchrl_drpo.files import telling_full_disk

from ..schema import LogSchema
from ..schema.split import Split
from ..sources import BATCH_ROWS
from ..store.folder import exclusive
from ..store.manifest import StoreError, read_manifest
from ..store.report import ConversionReport
from ..store.store import LogStore
from .executors import Workers, check_workers, mapping
from .opening import open_source
from .request import Request
from .run import Conversion
from .scan import SPLIT_ROWS
from .split import check_split

PARTITION_ROWS = 1 << 20


def convert_log(
    source: Any,
    root: Path | str,
    schema: LogSchema,
    *,
    test_days: int | Literal["auto"] | None = None,
    test_start: str | None = None,
    test_share: float | None = None,
    test_by: str | None = None,
    test_seed: int = 0,
    validation_days: int | Literal["auto"] | None = None,
    validation_share: float | None = None,
    bad_rows: str = "error",
    overwrite: bool = False,
    like: Path | str | None = None,
    batch_rows: int = BATCH_ROWS,
    partition_rows: int = PARTITION_ROWS,
    split_rows: int | None = None,
    executor: Workers = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ConversionReport:
    """Converts a log into ``root``; does nothing where the same conversion lies there already.

    The same: of files with the same content, whatever their dates. A file whose size, times and
    inode are what they were when it was converted is not read again to find that out.

    Args:
        source: a file, folder, glob, fsspec URI or list of these, of Parquet or CSV; or a pandas
            or polars frame, an Arrow table, a flat TensorDict.
        root: folder of the result. A folder with another conversion is left as it is unless
            ``overwrite`` is given, and then until the new one is complete.
        schema: what the columns mean.
        test_days: the last so many days become the part ``"test"``, the others ``"train"``;
            ``"auto"``: three, or fewer where less than half of the log's days would be left.
        test_start: or: the first day of the test part, ``"YYYY-MM-DD"``.
        test_share: or: about this share of the rows, taken as
        test_by: ``"time"`` (the log's latest rows, the default), ``"user"`` (each user's latest)
            or ``"random"`` says, with
        test_seed: the draw's seed.
        validation_days: the last so many days of the training rows become the part
            ``"validation"``, on which settings are chosen; a quality is fitted on those before.
        validation_share: or: about this share of them, taken as test rows are.
        bad_rows: ``"error"`` stops at the first faulty row; ``"drop"`` counts and leaves out.
        overwrite: replace a different conversion, or what is left of one.
        like: folder of an earlier conversion (of last week's log, say) whose numbers of items,
            users and contexts are kept; new ids come behind them, so trained policies still fit.
        batch_rows: rows read at a time.
        partition_rows: rows sorted at a time; memory grows with it (and with the rows of the
            heaviest user), by about 1 kB a row in the worst case.
        split_rows: rows that a worker reads as one task, and that are read again where it is
            killed: about 4 million in this process, a quarter of that where others share the
            work. Text and JSON lines are not cut within a file.
        executor: who works; this process by default. A number of processes, which are started for
            it; an ``Executor`` of ``concurrent.futures``; ``"ray"`` or ``"spark"``: tasks on the
            cluster that this process is connected to, or on this machine. Log and ``root`` must be
            reachable by the same names from wherever they run. A table in memory is read by this
            process.
        progress: called as ``progress(stage, done, total)``.

    Returns:
        The report, also kept in the manifest.

    Raises:
        LogError: if a file, a column or a row is not as the schema says.
        FileExistsError: if ``root`` holds another conversion.
        BlockingIOError: if another process converts something else into ``root``; where it
            converts the same, this waits.
        OSError: if the disk is full; what was there stays, and a later run goes on.
        RuntimeError: if a worker died; a later run goes on.

    Example:
        >>> import pandas as pd, tempfile
        >>> from torchrl_drpo.data import LogSchema
        >>> frame = pd.DataFrame(dict(u=[2, 1, 2], i=[3, 3, 4], t=[0, 1, 2], r=[1, 0, 1]))
        >>> schema = LogSchema(user="u", item="i", time="t", quality="r")
        >>> with tempfile.TemporaryDirectory() as root:
        ...     report = convert_log(frame, root, schema)
        >>> report.rows, report.users
        (3, 2)
    """
    root = Path(root)
    check_workers(executor)
    if bad_rows not in ("error", "drop"):
        raise ValueError(f"bad_rows must be 'error' or 'drop', got {bad_rows!r}")
    if split_rows is not None and split_rows < 1:
        raise ValueError(f"split_rows must be 1 or more, got {split_rows}")
    split = Split(test_days, test_start, test_share, test_by, test_seed)
    if validation_days is not None or validation_share is not None:
        split = Split.within(split, validation_days, validation_share)
    check_split(split, schema)
    log = open_source(source, schema, batch_rows)
    schema = schema.named(log.columns.names)
    earlier = LogStore(like) if like is not None else None
    options = {
        "split": split.to_json(), "bad_rows": bad_rows,
        "like": earlier.data.name if earlier is not None else None,
        "batch_rows": log.batch_rows, "partition_rows": partition_rows,
    }  # fmt: skip
    request = Request.of(log, schema, options, _known_inputs(root))
    report = _finished(root, request)
    if report is not None:  # nothing is locked or written: many may look, on a read-only mount too
        return report
    if not overwrite:
        _refuse_another(root, request)
    hint = "it goes on where it stopped, and what was there before is untouched"
    with telling_full_disk(f"converting into {root}", hint), exclusive(root, request.name):
        report = _finished(root, request)  # by another process, while this one waited
        if report is not None:
            return report
        if not overwrite:
            _refuse_another(root, request)
        known = earlier.catalogues() if earlier is not None else {}
        alone = executor is None or executor == 1
        split_rows = split_rows or (SPLIT_ROWS if alone else SPLIT_ROWS // 4)
        with mapping(executor) as do:
            return Conversion(
                log, schema, root, request, split, options, known, progress, split_rows, do
            ).run()


def _known_inputs(root: Path) -> tuple[Any, ...]:
    try:
        return read_manifest(root).inputs
    except (FileNotFoundError, StoreError):
        return ()


def _finished(root: Path, request: Request) -> ConversionReport | None:
    """The report of this very conversion, where it lies there undamaged."""
    try:
        store = LogStore(root)
    except (FileNotFoundError, StoreError):
        return None
    return store.report if store.data.name == request.name else None


def _refuse_another(root: Path, request: Request) -> None:
    """Raises ``FileExistsError`` where another conversion stands, or what is left of one."""
    try:
        found = read_manifest(root).data
    except FileNotFoundError:
        return
    except StoreError as error:
        raise FileExistsError(str(error)) from None
    if found != request.name:  # a damaged one of the same log is simply made anew
        raise FileExistsError(
            f"{root} holds a conversion of another log, schema or split; choose another "
            "root, or pass overwrite=True to replace it once the new one is complete"
        )
