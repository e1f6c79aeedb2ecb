"""A log as a TorchRL replay buffer; importing it registers the data sets ``"rec:..."``."""

from torchrl_drpo.data import registry as registry

from .buffer import RecReplayBuffer
from .slates import slate_rows
from .source import BufferSource
from .windows import WindowUnit

__all__ = ["BufferSource", "RecReplayBuffer", "WindowUnit", "slate_rows"]
