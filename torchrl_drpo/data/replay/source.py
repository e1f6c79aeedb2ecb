"""`BufferSource`: a replay buffer in the place of a collector, for TorchRL's `Trainer` offline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.collectors import BaseCollector
from torchrl.data import ReplayBuffer


class BufferSource(BaseCollector):
    """Batches of a replay buffer, wherever TorchRL wants a collector; no environment is needed.

    ``Trainer(collector=BufferSource(buffer), optim_steps_per_batch=1, ...)`` trains offline, one
    step a batch, and so do TorchRL's ``IQLTrainer`` and its kin with ``replay_buffer=None``. A
    frame is a row: ``total_frames = steps * batch_size``.

    Its state is that of the draws: how many batches were given, the sampler's state, the buffer's
    generator and torch's own. A trainer that is saved with ``checkpoint=Checkpoint()`` and loaded
    into the same buffer goes on with the batches, and the dropout, that the first one would have
    seen, bit for bit. Rows are not saved: they lie in the log.

    Args:
        buffer: any of TorchRL's replay buffers and this package's (``RecReplayBuffer``, its parts
            and sequences, ``AnnotatedBuffer``), with rows in it.
        batch_size: rows a batch; the buffer's own by default.
        batches: how many batches a pass over this source has; endless by default. A pass that was
            broken off is gone on with, one that has ended is followed by another.
        device: where batches go; by default they stay where the buffer gives them.

    Attributes:
        drawn: batches that the current pass has given.

    Raises:
        TypeError: if the buffer cannot be sampled from, or has no sampler.
        ValueError: for an empty buffer, no batch size, or a number below 1.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(6), batch_size=4)
        >>> _ = buffer.extend(TensorDict({"action": torch.arange(6)}, [6]))
        >>> [batch.numel() for batch in BufferSource(buffer, batches=2)]
        [4, 4]
    """

    #: A trainer's frames before its first step: all rows are there from the beginning.
    init_random_frames = 0

    def __init__(
        self,
        buffer: ReplayBuffer,
        batch_size: int | None = None,
        *,
        batches: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not callable(getattr(buffer, "sample", None)) or not hasattr(buffer, "sampler"):
            raise TypeError(
                f"expected a replay buffer with a sampler, got {type(buffer).__name__}; of an "
                "OfflineToOnlineReplayBuffer give its offline_buffer"
            )
        if len(buffer) == 0:
            raise ValueError("the replay buffer is empty: there is nothing to train on")
        batch_size = buffer.batch_size if batch_size is None else batch_size
        if batch_size is None:
            raise ValueError("neither the buffer nor batch_size says how many rows a batch has")
        for name, value in (("batch_size", batch_size), ("batches", batches)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.buffer, self.batch_size, self.batches = buffer, batch_size, batches
        self.device = None if device is None else torch.device(device)
        self.total_frames = -1 if batches is None else batches * batch_size  # as collectors have it
        self.drawn = 0

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError("an endless source has no length; give it batches=")
        return self.batches

    def iterator(self) -> Iterator[TensorDictBase]:
        """The rest of the current pass, or the next one."""
        if self.drawn == self.batches:
            self.drawn = 0
        while self.batches is None or self.drawn < self.batches:
            batch = self.buffer.sample(self.batch_size)
            self.drawn += 1
            yield batch if self.device is None else batch.to(self.device)

    def set_seed(self, seed: int, static_seed: bool = False) -> int:
        """Starts the buffer's generator anew, as ``Trainer(seed=...)`` asks for.

        Returns:
            The seed for whatever is seeded next: another one, unless ``static_seed``.
        """
        if (generator := _generator_of(self.buffer)) is not None:
            generator.manual_seed(seed)
        return seed if static_seed else seed + 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that later batches depend on, as tensors and plain values."""
        if getattr(self.buffer, "_prefetch", False):
            warnings.warn(
                "the buffer draws batches ahead (prefetch), which a saved state does not hold: a "
                "run that resumes from it skips them. Make the buffer without prefetch",
                stacklevel=2,
            )
        generator = _generator_of(self.buffer)
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        return {
            "drawn": self.drawn,
            "log": self._log(),
            "batch_size": self.batch_size,
            "sampler": dict(self.buffer.sampler.state_dict()),
            "generator": None if generator is None else generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if cuda else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where the state was taken.

        Raises:
            ValueError: if that was another log, another batch size, or a buffer with a generator
                of its own where this one has none, or the other way round.
        """
        generator = _generator_of(self.buffer)
        state = {**state_dict, "own generator": state_dict["generator"] is not None}
        here = {
            "log": self._log(),
            "batch_size": self.batch_size,
            "own generator": generator is not None,
        }
        for name, value in here.items():
            if state[name] != value:
                raise ValueError(
                    f"the state was saved with {name} {state[name]!r}, this source has {value!r}; "
                    "resume with what the run began with"
                )
        self.drawn = state["drawn"]
        self.buffer.sampler.load_state_dict(state["sampler"])
        if generator is not None:
            generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch_rng"].cpu())
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda_rng"]])

    def getattr_rb(self, name: str) -> Any:
        """What TorchRL's hooks ask of a collector's buffer; a log's rows count as written once."""
        return len(self.buffer) if name == "write_count" else getattr(self.buffer, name)

    def update_policy_weights_(self, *_: Any, **__: Any) -> None:
        """Nothing: no policy acts here."""

    def shutdown(self, *_: Any, **__: Any) -> None:
        """Nothing: the buffer is its owner's, and may be trained on again."""

    def __repr__(self) -> str:
        return f"BufferSource({len(self.buffer)} rows, batch_size={self.batch_size})"

    def _log(self) -> str:
        """What a state must name to fit these rows: those of a converted log by their content."""
        identity = getattr(self.buffer.storage, "identity", None)
        return f"{len(self.buffer)} rows" if identity is None else str(identity)


def _generator_of(buffer: ReplayBuffer) -> torch.Generator | None:
    return getattr(buffer, "_rng", None)
