"""Columns that a log was not written with, joined to the samples of its replay buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tensordict import TensorDictBase
from torchrl.data import TensorDictReplayBuffer


class AnnotatedBuffer:
    """A replay buffer whose samples carry further columns, found by their row numbers.

    For buffers over read-only storage (a converted log), and for columns that come after the
    rows: ``fold`` and ``predicted_reward`` of a cross-fitted reward model, for instance.
    Sampling, indexing and iterating give them; its methods and attributes are those of the buffer
    it was made of.

    Args:
        buffer: its samples have an ``"index"``, as those of TorchRL's ``TensorDictReplayBuffer``.
        columns: one row for each row of the buffer, in storage order.
        then: what is done with annotated rows before they are given out.

    Raises:
        ValueError: if the numbers of rows differ.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4), batch_size=3)
        >>> _ = buffer.extend(TensorDict({"action": torch.arange(4)}, [4]))
        >>> columns = TensorDict({"fold": 10 * torch.arange(4)}, [4])
        >>> sample = AnnotatedBuffer(buffer, columns).sample()
        >>> bool((sample["fold"] == 10 * sample["action"]).all())
        True
    """

    def __init__(
        self,
        buffer: TensorDictReplayBuffer,
        columns: TensorDictBase,
        then: Callable[[TensorDictBase], TensorDictBase] | None = None,
    ) -> None:
        if columns.shape != (len(buffer),):
            raise ValueError(
                f"the buffer has {len(buffer)} rows, the columns are {tuple(columns.shape)}; "
                "annotate all rows of the buffer, in storage order"
            )
        self._buffer, self._columns, self._then = buffer, columns, then

    def sample(self, *args: Any, **options: Any) -> Any:
        """A sample of the buffer, a tensordict with the columns of its rows.

        With ``return_info=True`` a pair of it and the sampler's information, as of any buffer.
        """
        sampled = self._buffer.sample(*args, **options)
        if isinstance(sampled, tuple):  # return_info=True
            return self._annotated(sampled[0]), *sampled[1:]
        return self._annotated(sampled)

    def __getitem__(self, index: Any) -> TensorDictBase:
        """Rows by integer, slice or index tensor, in storage order, with their columns."""
        return self._joined(self._buffer[index], self._columns[index])

    def _annotated(self, rows: TensorDictBase) -> TensorDictBase:
        return self._joined(rows, self._columns[rows["index"].to(self._columns.device or "cpu")])

    def _joined(self, rows: TensorDictBase, columns: TensorDictBase) -> TensorDictBase:
        rows = rows.update(columns.to(rows.device or "cpu"))
        return rows if self._then is None else self._then(rows)

    def __iter__(self) -> Iterator[TensorDictBase]:
        return map(self._annotated, self._buffer)

    def __len__(self) -> int:
        return len(self._buffer)

    def __getattr__(self, name: str) -> Any:
        # While it is being copied there is no buffer yet; and how it is copied is its own affair,
        # which Python 3.10 asks of the instance.
        if name == "_buffer" or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(self._buffer, name)
