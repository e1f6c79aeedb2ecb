"""Simulated environments."""

from torchrl_drpo.envs.recsim import RecSimEnv
from torchrl_drpo.envs.settings import RecSimSetting, Scenario, SessionSetting

__all__ = ["RecSimEnv", "RecSimSetting", "Scenario", "SessionSetting"]
