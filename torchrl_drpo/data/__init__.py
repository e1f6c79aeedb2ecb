"""Logs: schema, conversion, replay buffers, samplers.

The way in is one call; everything else is on the buffer:

    schema = LogSchema.preset("kuairand")        # or LogSchema(user=..., item=..., time=..., ...)
    log = RecReplayBuffer.from_parquet(path, schema, root="converted", test_days=3, history=20,
                                       batch_size=1024, generator=torch.Generator().manual_seed(0))
    train, test = log.split("train"), log.split("test")
    train.sample()                # TED rows; see RecReplayBuffer
    for rows in test.batches(4096): ...          # in order, labels such as long_view as [B] columns
    log.num_items, log.context_sizes, log.items.decode([...]), log.users.encode([...])
    log.latest_history([raw_user])               # [1, L], to recommend from
    log.set_sampler(QuantileSampler(kappa=0.1))  # only ever reads the top tenth
    load_dataset("rec:movielens", root=folder)   # TorchRL's registry; see datasets.py
    log.report                    # rows read, duplicates dropped, parts, ...

Importing this package needs torchrl only; reading a log needs pyarrow (`torchrl-drpo[data]`).
"""

from .catalogue import Catalogue
from .convert import convert_log
from .datasets import load_log
from .quality import Percentile, ReturnToGo, RewardFormula
from .replay import RecReplayBuffer
from .samplers import QuantileSampler, TrajectorySampler
from .schema import InitialHistory, ItemTable, LogSchema
from .sources import LogError
from .store import ConversionReport
from .validate import Fault, ValidationReport, validate_log
from .windows import WindowUnit

__all__ = [
    "Catalogue",
    "ConversionReport",
    "Fault",
    "InitialHistory",
    "ItemTable",
    "LogError",
    "LogSchema",
    "Percentile",
    "QuantileSampler",
    "RecReplayBuffer",
    "ReturnToGo",
    "RewardFormula",
    "TrajectorySampler",
    "ValidationReport",
    "WindowUnit",
    "convert_log",
    "load_log",
    "validate_log",
]
