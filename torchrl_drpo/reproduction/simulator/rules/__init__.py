r"""The objectives of the comparison, as rules for the weights of many seeds at once.

A rule gives :math:`w` of shape ``[S, B]``: each row of the first dimension is a seed's own batch,
and nothing is shared across seeds. The formulas are those of the LossModules that each rule names;
where ``torchrl_drpo.functional`` has them for one batch, they are mapped over the seeds.
"""

from torchrl_drpo.reproduction.simulator.rules.base import Rule
from torchrl_drpo.reproduction.simulator.rules.critics import (
    ExpectileAdvantage,
    LearnedTop,
    PolicyAdvantage,
)
from torchrl_drpo.reproduction.simulator.rules.filters import DatasetTop, TopFraction
from torchrl_drpo.reproduction.simulator.rules.modelled import (
    DirectMethod,
    Predicted,
    Uphill,
    UphillAtServing,
)
from torchrl_drpo.reproduction.simulator.rules.proximal import Proximal
from torchrl_drpo.reproduction.simulator.rules.signed import Asymmetric, Signed
from torchrl_drpo.reproduction.simulator.rules.soft import Exponential, Imitation

__all__ = [
    "Asymmetric",
    "DatasetTop",
    "DirectMethod",
    "ExpectileAdvantage",
    "Exponential",
    "Imitation",
    "LearnedTop",
    "PolicyAdvantage",
    "Predicted",
    "Proximal",
    "Rule",
    "Signed",
    "TopFraction",
    "Uphill",
    "UphillAtServing",
]
