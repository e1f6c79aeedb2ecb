"""Samplers for logs: the top of the data set by quality, and whole trajectories."""

from .quantile import QuantileSampler
from .trajectory import TrajectorySampler

__all__ = ["QuantileSampler", "TrajectorySampler"]
