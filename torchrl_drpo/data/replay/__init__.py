"""A log as a TorchRL replay buffer; importing it registers the data sets ``"rec:..."``."""

import warnings

with warnings.catch_warnings():  # TorchRL's collectors warn about themselves when imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.data.datasets import register_dataset

from .buffer import RecReplayBuffer
from .slates import slate_rows
from .source import BufferSource
from .windows import WindowUnit

__all__ = ["BufferSource", "RecReplayBuffer", "WindowUnit", "slate_rows"]

# By name, as TorchRL's own registry does it: the named logs stand above this package.
register_dataset("rec", "torchrl_drpo.data.datasets:load_log", replace=True)
