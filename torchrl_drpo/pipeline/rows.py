"""A log opened for a catalogue policy: its training rows, its held-out rows, its users."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs.transforms import DeviceCastTransform

from torchrl_drpo.data import Percentile, RecReplayBuffer
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.data.replay.sequences import SequenceStorage
from torchrl_drpo.data.schema.times import implausible_times
from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.pipeline.artifacts.users import UserHistories
from torchrl_drpo.pipeline.config.log import LogConfig, log_files, split_of
from torchrl_drpo.pipeline.empty_history import EmptyHistory, empty_history
from torchrl_drpo.pipeline.parts import HeldOut, PartCounts, PartFacts, check_parts
from torchrl_drpo.spelling import did_you_mean

#: How many of a user's latest items a checkpoint keeps, to know what was seen.
ITEMS_KEPT_A_USER = 500
_USERS_AT_A_TIME = 4096
_FEATURES = ("observation", "features")
#: Numbers of a block of features whose moments are taken together: 16 MiB of float64.
_NUMBERS_AT_A_TIME = 2**21


class SplitLog:
    """A converted log, split in time.

    Args:
        log: the buffer of the whole log, with the parts ``"train"`` and ``"test"``.
        labels: 0/1 columns to take; ``None`` takes all that the schema has.
        test: the part that is held out.

    Raises:
        ValueError: for a label that the log lacks or that is not 0/1.
    """

    def __init__(
        self, log: RecReplayBuffer, labels: Sequence[str] | None = None, test: str = "test"
    ) -> None:
        self.log = log
        self.test = log.split(test)
        self._labels = labels

    @classmethod
    def open(
        cls,
        config: LogConfig,
        root: Path,
        files: str | list[str] | None = None,
        history_columns: Sequence[str] = (),
        progress: Callable[[str, int, int], None] | None = None,
        split: Mapping[str, Any] | None = None,
        test: str = "test",
    ) -> SplitLog:
        """Converts the log into ``root`` (once; found again there, it is opened) and splits it.

        Args:
            config: which log, and what of it.
            root: the folder.
            files: of the log; those that ``config`` names by default.
            history_columns: what rows show of their histories' rows; see
                :meth:`~torchrl_drpo.RecReplayBuffer.from_parquet`.
            progress: called while it converts, with the stage, what is done, and of how much.
            split: what is held out, as keywords of a conversion; by default what ``config`` says.
            test: the part that is held out.
        """
        schema = config.log_schema()
        for name in config.labels or ():  # before a conversion that may take minutes
            _check_label(name, schema.labels)
        log = RecReplayBuffer.from_parquet(
            log_files(config) if files is None else files,
            schema,
            root=root,
            history=config.history,
            overwrite=True,
            history_columns=history_columns,
            bad_rows=config.bad_rows,
            progress=progress,
            **(split_of(config, schema) if split is None else split),
        )
        check_parts(log.report.parts, schema.split, test)
        return cls(log, config.labels, test)

    @property
    def items(self) -> Catalogue:
        """The item catalogue."""
        return self.log.items

    @property
    def num_items(self) -> int:
        """Its size."""
        return self.log.num_items

    @property
    def context_sizes(self) -> tuple[int, ...]:
        """Number of values of each context column."""
        return self.log.context_sizes

    @property
    def num_features(self) -> int:
        """Number of numeric features of a row."""
        return len(self.log.schema.features)

    def feature_moments(self) -> tuple[Tensor, Tensor]:
        """What the features' scaler is fitted to: mean and standard deviation of training rows.

        Returns:
            Mean and population standard deviation, each float64 ``[F]``; read once, a block of
            rows at a time.
        """
        return self._feature_moments

    @cached_property
    def _feature_moments(self) -> tuple[Tensor, Tensor]:
        train = self.log.split("train").storage
        size = max(1, _NUMBERS_AT_A_TIME // max(1, self.num_features))
        mean = torch.zeros(self.num_features, dtype=torch.double)
        squares = mean.clone()  # summed squares of the distances from the mean
        for start in range(0, len(train), size):
            stop = min(start + size, len(train))
            block = train.column(_FEATURES, torch.arange(start, stop)).double()
            # Merged by distances (Chan, Golub and LeVeque 1983, "Algorithms for computing the
            # sample variance"): of squares alone, a clock's would leave rounding errors.
            own = block.mean(0)
            apart, share = own - mean, (stop - start) / stop
            squares += (block - own).square().sum(0) + apart.square() * (start * share)
            mean += apart * share
        return mean, (squares / len(train)).sqrt()

    def quality_moments(self) -> tuple[Tensor, Tensor]:
        """What the feedback's scaler is fitted to: of the training rows' quality, each ``[1]``."""
        quality = self.log.split("train").quality.double()
        return quality.mean().reshape(1), quality.std(correction=0).reshape(1)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this converted log from any other, as JSON data."""
        return self.log.storage.state_dict()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Counts of the conversion, as JSON data."""
        return json.loads(self.log.report.to_json())

    @cached_property
    def bounds(self) -> QualityBounds:
        """Quarters of the quality; those of the training rows unless it is a percentile."""
        if isinstance(self.log.schema.quality, Percentile):
            return QualityBounds()
        quality = self.log.split("train").quality
        if self.is_constant:
            return QualityBounds.of_positives(quality[0].item())
        return QualityBounds.from_quality(quality)

    @cached_property
    def is_constant(self) -> bool:
        """Whether all training rows are worth the same, as in a log of purchases alone."""
        low, high = self.log.split("train").quality.aminmax()
        return bool(low == high)

    @cached_property
    def parts(self) -> PartFacts:
        """What both parts hold, and what the held-out one holds that training never showed."""
        train = self.log.split("train")
        held, trained = self.held_out, self.trained_items()
        strangers = 0
        if held.has_users:
            known = torch.zeros(len(self.log.users), dtype=torch.bool)
            known[train.column("user")] = True
            strangers = int((~known[held.user.unique()]).sum())
        users = train.column("user") if held.has_users else None
        return PartFacts(
            held_out=self.facts["held_out"],
            first_test_day=self.facts["first_test_day"],
            train=PartCounts.of(train.quality, users, self.bounds),
            test=PartCounts.of(held.quality, held.user if held.has_users else None, self.bounds),
            cold_rows=int((~trained[held.action]).sum()),
            cold_items=int((~trained[held.action.unique()]).sum()),
            cold_users=strangers,
            constant=self.is_constant,
            times=self._times_of_a_wrong_unit(),
            column=self.log.schema.split,
        )

    def _times_of_a_wrong_unit(self) -> str | None:
        """What is said where the log's times would be plausible in another unit."""
        if self.log.schema.time is None:
            return None
        first, last = self.log.column("time").aminmax()
        ticks = self.log.ticks_per_second
        unit = self.log.schema.time_unit
        said = implausible_times(first.item() / ticks, last.item() / ticks, unit)
        # Steps that are merely counted (a simulator's) fit no unit, and nothing is wrong with them.
        return said if said is not None and "counted in" in said else None

    @cached_property
    def held_out(self) -> HeldOut:
        """The test rows' columns."""
        quality = self.test.quality
        has_users = self.log.schema.user is not None
        has_context = bool(self.context_sizes)
        return HeldOut(
            action=self.test.column("action"),
            quality=quality,
            user=self.test.column("user") if has_users else torch.zeros(len(quality)).long(),
            labels=self._read_labels(),
            context=self.test.column(("observation", "context")) if has_context else None,
            warm=self.trained_items()[self.test.column("action")],
            has_users=has_users,
        )

    def _read_labels(self) -> dict[str, Tensor]:
        known = self.log.schema.labels
        out = {}
        for name in known if self._labels is None else self._labels:
            _check_label(name, known)
            values = self.test.column(name)
            if ((values == 0) | (values == 1)).all():
                out[name] = values
            elif self._labels is not None:
                raise ValueError(f"label {name!r} is not 0/1 and has no AUC")
        return out

    def trained_items(self) -> Tensor:
        """Which items some training row showed, bool ``[V]``."""
        seen = torch.zeros(self.num_items, dtype=torch.bool)
        return seen.index_fill_(0, self.train_items(), True)

    def train_items(self) -> Tensor:
        """Logged item of every training row."""
        return self.log.split("train").column("action")

    def train_buffer(self, batch_size: int, seed: int, device: str) -> RecReplayBuffer:
        """Training rows in random order with a generator of their own, on ``device``."""
        buffer = self.log.split(
            "train",
            batch_size=batch_size,
            sampler=SamplerWithoutReplacement(drop_last=True),
            generator=torch.Generator().manual_seed(seed),
        )
        if batch_size > len(buffer):
            raise ValueError(
                f"batch_size is {batch_size} but the log has {len(buffer)} training rows; "
                f"ask for smaller batches, by --batch-size {max(1, len(buffer) // 8)} for one"
            )
        if not self.has_histories:
            buffer.append_transform(EmptyHistory())
        if torch.device(device).type != "cpu":
            buffer.append_transform(DeviceCastTransform(device))
        return buffer

    def train_sequences(self, batch_size: int, seed: int, device: str) -> TensorDictReplayBuffer:
        """Training rows by whole sequences, in random order, about ``batch_size`` rows at a time.

        Raises:
            ValueError: for a log without users' sequences.
        """
        train = self.log.split("train")
        pieces = len(SequenceStorage(train.storage))
        together = max(1, min(pieces, round(batch_size * pieces / len(train))))
        sequences = train.sequences(
            batch_size=together,
            sampler=SamplerWithoutReplacement(drop_last=True),
            generator=torch.Generator().manual_seed(seed),
        )
        if torch.device(device).type != "cpu":
            sequences.append_transform(DeviceCastTransform(device))
        return sequences

    def train_batches(self, rows: int) -> Iterator[TensorDictBase]:
        """The training rows in storage order."""
        return self._batches(self.log.split("train"), rows)

    def test_batches(self, rows: int) -> Iterator[TensorDictBase]:
        """The held-out rows in order."""
        return self._batches(self.test, rows)

    def rows_at(self, part: str, index: Tensor) -> TensorDictBase:
        """Rows of a part by their positions in it."""
        rows = self.log.split(part)[index]
        return rows if self.has_histories else empty_history(rows)

    def _batches(self, part: RecReplayBuffer, rows: int) -> Iterator[TensorDictBase]:
        for block in part.batches(rows):
            yield block if self.has_histories else empty_history(block)

    @property
    def has_histories(self) -> bool:
        """Whether rows know what came before them."""
        return self.log.schema.by_user or self.log.schema.history is not None

    def users(self) -> UserHistories:
        """What every user did last, in which context and of which features."""
        log = self.log
        if not log.schema.by_user:
            return UserHistories(
                Catalogue([]),
                items=torch.zeros(0, dtype=torch.int32),
                offsets=torch.zeros(1, dtype=torch.long),
                context=torch.zeros(0, len(log.context_sizes), dtype=torch.long),
                features=torch.zeros(0, self.num_features),
            )
        values, counts, more = [], [], {name: [] for name in ("times", "feedback")}
        everyone = log.users.decode(range(len(log.users)))
        for start in range(0, len(everyone), _USERS_AT_A_TIME):
            block = everyone[start : start + _USERS_AT_A_TIME]
            latest = log.latest_history(block, ITEMS_KEPT_A_USER)
            values.append(latest[latest >= 0].int())
            counts.append((latest >= 0).sum(-1))
            columns = log.latest_history_columns(block, ITEMS_KEPT_A_USER)
            for name, key in (("times", "history_time"), ("feedback", "history_feedback")):
                if key in columns:
                    more[name].append(columns[key][latest >= 0])
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), torch.cat(counts).cumsum(0)])
        latest = self._latest_rows()
        return UserHistories(
            log.users,
            torch.cat(values),
            offsets,
            context=self._at(latest, ("observation", "context"), bool(log.context_sizes)).long(),
            features=self._at(latest, _FEATURES, bool(self.num_features)),
            **{name: torch.cat(found) for name, found in more.items() if found},
        )

    def _latest_rows(self) -> Tensor:
        """Number of each user's latest row, int64 ``[U]``."""
        user = self.log.column("user")
        last = torch.zeros(len(self.log.users), dtype=torch.long)
        return last.scatter_reduce_(0, user, torch.arange(len(user)), "amax")  # in time order

    def _at(self, rows: Tensor, key: NestedKey, there: bool) -> Tensor:
        """A column's values at some rows; no values where the log has no such column."""
        return self.log.storage.column(key, rows) if there else torch.zeros(len(rows), 0)


def _check_label(name: str, known: Sequence[str]) -> None:
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(
            f"no label {name!r}{hint} in the log; its schema has {', '.join(known) or 'none'}"
        )
