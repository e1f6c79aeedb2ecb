"""The ``drpo`` command: typed configurations in, tables, files or JSON out.

Every command is a dataclass of options (read by tyro) and a function. Bad input ends with exit
code 2 and one line that says what was wrong.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torchrl_drpo import __version__


class Command(NamedTuple):
    """Where a command lives; nothing is imported before it is asked for.

    Attributes:
        summary: one line for ``drpo --help``.
        config: ``module:dataclass`` of its options.
        run: ``module:function`` that takes the options, reports to the terminal, and may return
            an exit code.
    """

    summary: str
    config: str
    run: str


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "simulate a noisy log, learn from it with BC, the signed loss and DRPO, compare",
        "torchrl_drpo.pipeline.config.demo:DemoConfig",
        "torchrl_drpo.pipeline.demo.command:command",
    ),
    "simulate": Command(
        "write a simulated log as Parquet, with schema, item vectors and true propensities",
        "torchrl_drpo.pipeline.config.log:SimulateConfig",
        "torchrl_drpo.pipeline.simulate:run_simulate",
    ),
    "validate": Command(
        "report every fault of a log, with counts and example rows",
        "torchrl_drpo.pipeline.config.log:ValidateConfig",
        "torchrl_drpo.pipeline.logs:run_validate",
    ),
    "convert": Command(
        "convert a log into memory-mapped columns; resumes when killed",
        "torchrl_drpo.pipeline.config.log:ConvertConfig",
        "torchrl_drpo.pipeline.logs:run_convert",
    ),
    "train": Command(
        "train policies on a log and evaluate them on its last days",
        "torchrl_drpo.pipeline.config.train:TrainConfig",
        "torchrl_drpo.pipeline.train:command",
    ),
    "evaluate": Command(
        "evaluate a trained policy on the last days of a log",
        "torchrl_drpo.pipeline.config.serve:EvaluateConfig",
        "torchrl_drpo.pipeline.evaluate:command",
    ),
    "recommend": Command(
        "list the items that a trained policy recommends to a user",
        "torchrl_drpo.pipeline.config.serve:RecommendConfig",
        "torchrl_drpo.pipeline.recommend:command",
    ),
    "reproduce": Command(
        "reproduce tables, figures and claims, and report what held and what did not",
        "torchrl_drpo.reproduction.command:ReproduceConfig",
        "torchrl_drpo.reproduction.command:run",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``drpo``; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `drpo ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, KeyError, OSError, TypeError) as error:
        if os.environ.get("DRPO_TRACEBACK"):
            raise
        return _refuse(_one_line(error))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"torchrl-drpo {__version__}")
        return 0
    name, *options = argv
    if name not in COMMANDS:
        return _refuse(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    try:
        import tyro
    except ModuleNotFoundError:
        return _refuse("the command line needs its extra: pip install 'torchrl-drpo[cli]'")
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    command = COMMANDS[name]
    config = tyro.cli(
        _load(command.config),
        args=options,
        prog=f"drpo {name}",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return _load(command.run)(config) or 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items())
    return (
        "usage: drpo COMMAND [OPTIONS]\n\nLearn a recommender from logs.\n\n"
        f"commands:\n{listed}\n\n"
        "`drpo COMMAND --help` explains a command's options. Bad input ends with exit code 2 and "
        "one line;\nDRPO_TRACEBACK=1 shows where it came from."
    )


def _load(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__


def _refuse(message: str) -> int:
    print(f"drpo: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
