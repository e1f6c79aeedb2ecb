"""Learn a recommender from logs: optimistic DRPO and its family as TorchRL losses.

The method is that of arXiv 2602.10430. Most users want ``from torchrl_drpo import DRPOLoss``.

Public names are imported when they are first asked for: TorchRL takes seconds to import, and
``drpo --help`` or a data pipeline should not wait for the objectives.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

__version__ = "0.2.0"

_HOME = {
    "torchrl_drpo.objectives": (
        "AWRLoss",
        "AdaptiveBCLoss",
        "AsymRELoss",
        "BPPOLoss",
        "BehaviorCloningLoss",
        "CRRLoss",
        "DRPOLoss",
        "DRPOQLoss",
        "ECPOLoss",
        "GBPOLoss",
        "GuidedLoss",
        "RepulsiveLoss",
        "TOPRLoss",
    ),
    "torchrl_drpo.functional.controllers": ("AdaptiveKappa",),
    "torchrl_drpo.functional.tapers": ("ExponentialTaper", "HardCutoff", "ReciprocalTaper"),
    "torchrl_drpo.distributions": (
        "CatalogueCategorical",
        "CodeTrie",
        "PlackettLuce",
        "SampledCatalogueCategorical",
        "SemanticIDCategorical",
        "TrieCategorical",
    ),
    "torchrl_drpo.distributed.categorical": ("ShardedCatalogueCategorical",),
    "torchrl_drpo.policies": (
        "EncoderConfig",
        "make_catalogue_actor",
        "make_gaussian_actor",
        "make_semantic_id_actor",
        "make_slate_actor",
    ),
    "torchrl_drpo.policies.decoding": ("FaissDecoder", "MIPSDecoder"),
    "torchrl_drpo.data": ("BufferSource", "LogSchema", "QuantileSampler", "RecReplayBuffer"),
    "torchrl_drpo.rewards": ("CrossFittedReward",),
    "torchrl_drpo.envs": ("RecSimEnv",),
    "torchrl_drpo.pipeline.drpo_trainer": ("DRPOTrainer", "DRPOTrainerConfig"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    _register_logs()
    return value


def _register_logs() -> None:
    """Lets TorchRL find ``"rec:..."`` data sets; TorchRL knows of no entry points for them."""
    if "torchrl.data" in sys.modules:  # it takes seconds, and who loads no data needs none of it
        importlib.import_module("torchrl_drpo.data.registry")


_register_logs()


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # what type checkers and editors read instead
    from torchrl_drpo.data import BufferSource as BufferSource
    from torchrl_drpo.data import LogSchema as LogSchema
    from torchrl_drpo.data import QuantileSampler as QuantileSampler
    from torchrl_drpo.data import RecReplayBuffer as RecReplayBuffer
    from torchrl_drpo.distributed.categorical import (
        ShardedCatalogueCategorical as ShardedCatalogueCategorical,
    )
    from torchrl_drpo.distributions import CatalogueCategorical as CatalogueCategorical
    from torchrl_drpo.distributions import CodeTrie as CodeTrie
    from torchrl_drpo.distributions import PlackettLuce as PlackettLuce
    from torchrl_drpo.distributions import (
        SampledCatalogueCategorical as SampledCatalogueCategorical,
    )
    from torchrl_drpo.distributions import SemanticIDCategorical as SemanticIDCategorical
    from torchrl_drpo.distributions import TrieCategorical as TrieCategorical
    from torchrl_drpo.envs import RecSimEnv as RecSimEnv
    from torchrl_drpo.functional.controllers import AdaptiveKappa as AdaptiveKappa
    from torchrl_drpo.functional.tapers import ExponentialTaper as ExponentialTaper
    from torchrl_drpo.functional.tapers import HardCutoff as HardCutoff
    from torchrl_drpo.functional.tapers import ReciprocalTaper as ReciprocalTaper
    from torchrl_drpo.objectives import AdaptiveBCLoss as AdaptiveBCLoss
    from torchrl_drpo.objectives import AsymRELoss as AsymRELoss
    from torchrl_drpo.objectives import AWRLoss as AWRLoss
    from torchrl_drpo.objectives import BehaviorCloningLoss as BehaviorCloningLoss
    from torchrl_drpo.objectives import BPPOLoss as BPPOLoss
    from torchrl_drpo.objectives import CRRLoss as CRRLoss
    from torchrl_drpo.objectives import DRPOLoss as DRPOLoss
    from torchrl_drpo.objectives import DRPOQLoss as DRPOQLoss
    from torchrl_drpo.objectives import ECPOLoss as ECPOLoss
    from torchrl_drpo.objectives import GBPOLoss as GBPOLoss
    from torchrl_drpo.objectives import GuidedLoss as GuidedLoss
    from torchrl_drpo.objectives import RepulsiveLoss as RepulsiveLoss
    from torchrl_drpo.objectives import TOPRLoss as TOPRLoss
    from torchrl_drpo.pipeline.drpo_trainer import DRPOTrainer as DRPOTrainer
    from torchrl_drpo.pipeline.drpo_trainer import DRPOTrainerConfig as DRPOTrainerConfig
    from torchrl_drpo.policies import EncoderConfig as EncoderConfig
    from torchrl_drpo.policies import make_catalogue_actor as make_catalogue_actor
    from torchrl_drpo.policies import make_gaussian_actor as make_gaussian_actor
    from torchrl_drpo.policies import make_semantic_id_actor as make_semantic_id_actor
    from torchrl_drpo.policies import make_slate_actor as make_slate_actor
    from torchrl_drpo.policies.decoding import FaissDecoder as FaissDecoder
    from torchrl_drpo.policies.decoding import MIPSDecoder as MIPSDecoder
    from torchrl_drpo.rewards import CrossFittedReward as CrossFittedReward
