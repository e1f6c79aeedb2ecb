"""The command line, ``drpo``: names of commands, their options, errors in one line."""

from torchrl_drpo.cli.commands import COMMANDS
from torchrl_drpo.cli.main import main

__all__ = ["COMMANDS", "main"]
