"""`RecReplayBuffer`: a log as a TorchRL replay buffer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ImmutableDatasetWriter, TensorDictReplayBuffer

from ..conversion import convert_log
from ..conversion.executors import Workers
from ..schema import LogSchema
from .copies import deep_copy, kept_options
from .log import LogFacts, OpenLog, open_log, remove_with
from .positions import row_positions
from .reading import LogReading
from .sequences import SequenceStorage, together
from .storage import LogStorage
from .ted import store_ted

#: What samples hold whatever columns they are asked for: what losses and critics read.
_TRANSITION = ("observation", "action", "next")


class RecReplayBuffer(LogFacts, LogReading, TensorDictReplayBuffer):
    """A recommendation log as a TorchRL replay buffer, memory-mapped and read-only.

    Any TorchRL sampler, sample unit, transform and trainer works on it. A sample is in TED layout:
    ``action`` (item numbers, int64 ``[B]``), ``("next", "reward")`` (the schema's quality, float32
    ``[B, 1]``), ``("next", "done")``, ``("next", "terminated")``, ``("observation", "history")``
    (item numbers int64 ``[B, L]``, most recent last, left-padded with -1; all -1 where a log has
    neither users nor histories),
    ``("observation", "context")`` (int64 ``[B, C]``, where the schema has context),
    ``("observation", "features")`` (float32 ``[B, F]``, where it has features, in their order and
    as logged), and where known ``user``, ``time``, ``propensity`` and its logarithm
    ``log_propensity`` (which survives where float32 holds no probability), ``position``,
    ``slate``, ``policy``, ``trajectory_id``, ``step`` and the schema's labels, each ``[B]``.

    Make one with :meth:`from_parquet`, :meth:`from_pandas`, :meth:`from_tensordict` or, for a
    folder that was converted before, :meth:`open`.

    Examples:
        >>> import pandas as pd
        >>> log = pd.DataFrame(dict(u=[7, 7, 9], i=[30, 10, 30], t=[1, 2, 3], click=[1, 0, 1]))
        >>> log["age"] = [31, 31, 40]
        >>> schema = LogSchema(user="u", item="i", time="t", quality="click", features=("age",))
        >>> buffer = RecReplayBuffer.from_pandas(log, schema, history=2, batch_size=4)
        >>> buffer.sample()["observation", "history"].shape
        torch.Size([4, 2])
        >>> buffer[:]["observation", "history"].tolist()
        [[-1, -1], [-1, 1], [-1, -1]]
        >>> buffer[:]["observation", "features"].tolist()
        [[31.0], [31.0], [40.0]]
        >>> buffer.items.decode(buffer[:]["action"])
        [30, 10, 30]
    """

    def __init__(
        self,
        log: OpenLog,
        *,
        part: str | None = None,
        history: int = 20,
        next_observation: bool = False,
        sample_index: bool = True,
        history_columns: Sequence[str] = (),
        columns: Sequence[str] | None = None,
        **buffer_options: Any,
    ) -> None:
        if history < 0:
            raise ValueError(f"history must be 0 or more items, got {history}")
        self._log, self.part = log, part
        self._options = {
            "history": history, "next_observation": next_observation, "sample_index": sample_index,
            "history_columns": tuple(history_columns),
            "columns": None if columns is None else tuple(columns),
        }  # fmt: skip
        if part is not None:
            self._check_part(part)
        storage = LogStorage(
            log, part=part, history_length=history, next_observation=next_observation,
            history_columns=history_columns,
        )  # fmt: skip
        super().__init__(storage=storage, writer=ImmutableDatasetWriter(), **buffer_options)
        # An explicit size prevails, as documented; OfflineToOnlineReplayBuffer always gives one.
        self._warned_batch_size_conflict = True
        self._check_columns(columns or ())

    @classmethod
    def from_parquet(
        cls,
        source: Any,
        schema: LogSchema | str,
        *,
        root: Path | str | None = None,
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
        executor: Workers = None,
        progress: Callable[[str, int, int], None] | None = None,
        part: str | None = None,
        history: int = 20,
        **options: Any,
    ) -> RecReplayBuffer:
        """Converts a log (once) and opens it.

        Args:
            source: file, folder, glob, fsspec URI or list of these, of Parquet or CSV; or a
                pandas or polars frame, an Arrow table.
            schema: what the columns mean, or the name of a preset such as ``"kuairand"``.
            root: where the converted log lies; found there again, it is opened as it is. Without
                one it lies in a temporary folder that goes with the buffer.
            test_days: the last so many days become the part ``"test"``, the others ``"train"``;
                ``"auto"``: three, or fewer where less than half of the log's days would be left.
            test_start: or: first day of the test part, ``"YYYY-MM-DD"``.
            test_share: or: about this share of the rows, taken as
            test_by: ``"time"`` (the log's latest rows, the default), ``"user"`` (each user's
                latest) or ``"random"`` says, with
            test_seed: the draw's seed.
            validation_days: the last so many days of the training rows become ``"validation"``.
            validation_share: or: about this share of them, taken as test rows are.
            bad_rows: ``"error"`` stops at the first faulty row; ``"drop"`` leaves it out.
            overwrite: replace another conversion at ``root``.
            like: folder of an earlier conversion whose numbers of items and users are kept.
            executor: who converts; see :func:`~torchrl_drpo.data.convert_log`.
            progress: called while it converts, with the stage, what is done, and of how much.
            part: show this part of the log only; also :meth:`split`.
            history: items of the history window, 0 for none.
            **options: ``next_observation=True`` adds ``("next", "observation")``, which critics
                need: history, context and features of the following state;
                ``history_columns=("time", "feedback")`` adds when the rows of a history happened
                and what they were worth, ``("observation", "history_time")`` (int64 ticks) and
                ``("observation", "history_feedback")`` (float32), each ``[B, L]``;
                ``columns=("user", "propensity")`` names what samples hold beside observation,
                action and what came next, ``columns=()`` nothing (all by default), and
                ``sample_index=False`` leaves ``"index"`` out of them, so that they can be joined
                with an online buffer's; and those of TorchRL's ``TensorDictReplayBuffer``:
                ``batch_size``, ``sampler``, ``sample_unit``, ``transform``, ``generator``,
                ``prefetch``, ...

        Raises:
            LogError: names the file, row and value that do not fit the schema.
        """
        schema = LogSchema.preset(schema) if isinstance(schema, str) else schema
        where = Path(root) if root is not None else Path(tempfile.mkdtemp(prefix="drpo-log-"))
        try:
            convert_log(
                source, where, schema, test_days=test_days, test_start=test_start,
                test_share=test_share, test_by=test_by, test_seed=test_seed,
                validation_days=validation_days, validation_share=validation_share,
                bad_rows=bad_rows, overwrite=overwrite, like=like, executor=executor,
                progress=progress,
            )  # fmt: skip
        except BaseException:
            if root is None:
                shutil.rmtree(where, ignore_errors=True)
            raise
        log = open_log(where)
        if root is None:
            remove_with(log, where)
        return cls(log, part=part, history=history, **options)

    @classmethod
    def from_pandas(cls, frame: Any, schema: LogSchema | str, **options: Any) -> RecReplayBuffer:
        """As :meth:`from_parquet`, of what offers Arrow's stream (``__arrow_c_stream__``).

        Such are pandas and polars frames, Arrow tables, data sets and readers.
        """
        return cls.from_parquet(frame, schema, **options)

    @classmethod
    def from_tensordict(
        cls,
        rows: TensorDictBase,
        schema: LogSchema | str | None = None,
        *,
        root: Path | str | None = None,
        **options: Any,
    ) -> RecReplayBuffer:
        """From a TensorDict: TED rows as they are, or, with a schema, flat columns to convert.

        Args:
            rows: batch size ``[N]``. Without a schema: TED rows with ``action`` and
                ``("next", "reward")``; missing ``done`` and ``terminated`` are set to True, for
                one-step interactions. They are copied into memory-mapped files.
            schema: what the columns mean, where ``rows`` are a log's flat columns.
            root: where the files lie; a temporary folder that goes with the buffer by default.
            **options: as in :meth:`from_parquet`.

        Raises:
            ValueError: on rewards that are not finite, propensities outside (0, 1], no rows.
        """
        if schema is not None:
            return cls.from_parquet(rows, schema, root=root, **options)
        where = Path(root) if root is not None else Path(tempfile.mkdtemp(prefix="drpo-log-"))
        try:
            store_ted(rows, where)
        except BaseException:
            if root is None:
                shutil.rmtree(where, ignore_errors=True)
            raise
        log = open_log(where)
        if root is None:
            remove_with(log, where)
        return cls(log, **{"history": 0, **options})

    @classmethod
    def open(cls, root: Path | str, *, verify: bool = False, **options: Any) -> RecReplayBuffer:
        """Opens a folder that ``convert_log``, :meth:`from_parquet` or another ``from_`` wrote.

        Nothing is locked or written, so many processes may open one folder, also on a read-only
        mount. Sizes and samples of the files are checked against what was written.

        Args:
            root: that folder.
            verify: check every byte, which reads everything once.
            **options: ``part``, ``history`` and the others of :meth:`from_parquet`.

        Raises:
            FileNotFoundError: if no finished conversion lies there.
            StoreError: if it is damaged or of another version; convert again.
        """
        return cls(open_log(root, verify=verify), **options)

    def split(self, part: str, **buffer_options: Any) -> RecReplayBuffer:
        """Another buffer on the same files that shows one part, such as ``"train"`` or ``"test"``.

        Histories still reach into the whole log: that of a test row holds all rows before it.
        Whatever was given to this buffer is kept unless given anew: both draw from one generator;
        the sampler and the transforms are copies, and the sampler starts afresh.

        Args:
            part: name of the part.
            **buffer_options: ``history``, ``next_observation``, ``sample_index``, and TorchRL's.
        """
        options = {**self._options, **kept_options(self), **buffer_options}
        if "transform_factory" in buffer_options:
            del options["transform"]
        return type(self)(self._log, part=part, **options)

    def sequences(self, **buffer_options: Any) -> TensorDictReplayBuffer:
        """The same rows by whole user sequences, each history read once for many rows.

        For :class:`~torchrl_drpo.objectives.AllPlaces`, which trains every place of a sequence in
        one pass of an encoder. See :class:`~torchrl_drpo.data.replay.sequences.SequenceStorage`
        for what a sample holds, and how sequences longer than ``history`` are cut.

        Args:
            **buffer_options: TorchRL's; ``batch_size`` counts sequences.

        Raises:
            ValueError: for a log without users' sequences.

        Examples:
            >>> import pandas as pd
            >>> log = pd.DataFrame(dict(u=[7, 7, 7, 9], i=[3, 1, 2, 3], t=[1, 2, 2, 3], y=1.0))
            >>> schema = LogSchema(user="u", item="i", time="t", quality="y")
            >>> pieces = RecReplayBuffer.from_pandas(log, schema).sequences()
            >>> pieces[:]["observation", "history"].tolist()
            [[2], [-1]]
            >>> pieces[:]["observation", "seen"].tolist()
            [[0, 1, 1], [0, 0, 0]]
        """
        return TensorDictReplayBuffer(
            storage=SequenceStorage(self._storage),
            writer=ImmutableDatasetWriter(),
            **{"collate_fn": together, **buffer_options},
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> RecReplayBuffer:
        """Another buffer over the same files, which are read-only."""
        log = self._log
        files = [log, log.rows, log.histories, *log.starts.values(), self._storage.part]
        return deep_copy(self, memo, files)

    def sample(self, *args: Any, **options: Any) -> Any:
        """See TorchRL's ``TensorDictReplayBuffer.sample``."""
        found = super().sample(*args, **options)
        rows = found[0] if isinstance(found, tuple) else found
        if not self._options["sample_index"]:
            rows.pop("index", None)
        if (columns := self._options["columns"]) is not None:
            rows.select(*_TRANSITION, *columns, "index", strict=False, inplace=True)
        return found

    def __getitem__(self, index: Any) -> Any:
        """Rows by integer, slice, index tensor or mask, in storage order; a key gives that column.

        Raises:
            IndexError: see :func:`~torchrl_drpo.data.replay.positions.row_positions`.
        """
        if isinstance(index, slice | Tensor) or index is Ellipsis:
            index = row_positions(index, len(self))
        return super().__getitem__(index)

    def _check_columns(self, columns: Sequence[str]) -> None:
        known = sorted({*self[:1].keys()} - {*_TRANSITION}) if columns else []
        for key in columns:
            if key not in known:
                raise ValueError(
                    f"this log has no column {key!r} beside its transitions; it has {known}"
                )

    def _check_part(self, part: str) -> None:
        rows = self._log.store.part(part)
        if rows is None:
            raise ValueError(f"no part {part!r} in this log; {self.known_parts()}")
        if len(rows) == 0:
            raise ValueError(f"part {part!r} of this log is empty")
