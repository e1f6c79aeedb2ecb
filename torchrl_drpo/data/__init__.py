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

Names are imported when they are first asked for: a schema needs plain Python, a conversion numpy
and pyarrow (`torchrl-drpo[data]`), a buffer TorchRL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "catalogue": ("Catalogue",),
    "conversion": ("convert_log",),
    "datasets": ("load_log",),
    "draft": ("Draft", "draft_schema"),
    "replay": ("BufferSource", "RecReplayBuffer", "WindowUnit", "slate_rows"),
    "samplers": ("QuantileSampler", "TrajectorySampler"),
    "schema": (
        "EventValues",
        "InitialHistory",
        "ItemTable",
        "Lists",
        "LogSchema",
        "Percentile",
        "ReturnToGo",
        "RewardFormula",
        "TextFiles",
    ),
    "sources": ("LogError",),
    "store": ("ConversionReport", "StoreError", "StoreReport", "verify_store"),
    "validation": ("Fault", "ValidationReport", "validate_log"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # what type checkers and editors read instead
    from .catalogue import Catalogue as Catalogue
    from .conversion import convert_log as convert_log
    from .datasets import load_log as load_log
    from .draft import Draft as Draft
    from .draft import draft_schema as draft_schema
    from .replay import BufferSource as BufferSource
    from .replay import RecReplayBuffer as RecReplayBuffer
    from .replay import WindowUnit as WindowUnit
    from .replay import slate_rows as slate_rows
    from .samplers import QuantileSampler as QuantileSampler
    from .samplers import TrajectorySampler as TrajectorySampler
    from .schema import EventValues as EventValues
    from .schema import InitialHistory as InitialHistory
    from .schema import ItemTable as ItemTable
    from .schema import Lists as Lists
    from .schema import LogSchema as LogSchema
    from .schema import Percentile as Percentile
    from .schema import ReturnToGo as ReturnToGo
    from .schema import RewardFormula as RewardFormula
    from .schema import TextFiles as TextFiles
    from .sources import LogError as LogError
    from .store import ConversionReport as ConversionReport
    from .store import StoreError as StoreError
    from .store import StoreReport as StoreReport
    from .store import verify_store as verify_store
    from .validation import Fault as Fault
    from .validation import ValidationReport as ValidationReport
    from .validation import validate_log as validate_log
