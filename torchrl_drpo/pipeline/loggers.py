"""Where training curves go beside ``results.json``: TorchRL's loggers, by name.

Each run of a command is a run of its own there. What says to whom it goes is the service's own
business: ``WANDB_MODE=offline``, ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``.

A run that goes on after a kill logs some steps again, and TorchRL's loggers only ever append. So
files are begun anew with every command, and told first what the run had reported
(:func:`tell_again`): they end as those of a run that was never killed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torchrl.record.loggers import CSVLogger, MLFlowLogger, TensorboardLogger, WandbLogger
from torchrl.record.loggers.common import Logger

from torchrl_drpo.files import fingerprint
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import team

#: The package behind a logger, and the extra that brings it, where the command's own has none.
PACKAGES = {
    "tensorboard": ("tensorboard", "cli"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}
#: Project of Weights & Biases and experiment of MLflow, unless ``WANDB_PROJECT`` names another.
PROJECT = "torchrl-drpo"


def check_logger(name: str) -> None:
    """Refuses a logger whose package is missing, before anything is trained.

    Raises:
        ModuleNotFoundError: with what installs it.
    """
    package, extra = PACKAGES.get(name, (None, None))
    if package is not None and importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"--logger {name} needs its package: pip install 'torchrl-drpo[{extra}]'", name=package
        )


@contextmanager
def loggers(config: TrainConfig, run: str, state: Path) -> Iterator[list[Logger]]:
    """The loggers of one run, which end with it; none on ranks beside the first.

    Args:
        config: says which, and the folder of what stays on this machine.
        run: its name.
        state: where its training state lies; a run that goes on after a kill is the same one to
            Weights & Biases.
    """
    group = team()
    if config.logger == "none" or (group is not None and group.rank() > 0):
        yield []
        return
    folder = config.output / "curves"
    if config.logger in _FILES:
        kind, ours = _FILES[config.logger]
        for path in (folder / run).glob(ours):
            path.unlink()
        logger = kind(exp_name=run, log_dir=str(folder))
        yield [logger]
        if config.logger == "tensorboard":
            logger.experiment.close()
        return
    folder.mkdir(parents=True, exist_ok=True)
    opened = _wandb if config.logger == "wandb" else _mlflow
    logger, end = opened(run, folder.absolute(), state)
    try:
        yield [logger]
    except BaseException:
        end(False)
        raise
    end(True)


def tell_again(
    loggers: Iterable[Logger], reported: Mapping[str, Mapping[str, Iterable[tuple[int, float]]]]
) -> None:
    """Tells loggers what a run had reported before it was killed.

    Weights & Biases keeps the run, whose steps it has; the others have begun anew.

    Args:
        loggers: of the run.
        reported: by group (``train``, ``evaluation``) and name, steps and values.
    """
    told = [logger for logger in loggers if not isinstance(logger, WandbLogger)]
    for group, found in reported.items():
        for name, values in found.items():
            for step, value in values:
                for logger in told:
                    logger.log_scalar(f"{group}/{name}", value, step=step)


#: Loggers of files, and which files of a run are theirs.
_FILES = {
    "csv": (CSVLogger, "scalars/**/*.csv"),
    "tensorboard": (TensorboardLogger, "events.out.tfevents.*"),
}
#: Ends a run of a service; whether all went well.
End = Callable[[bool], None]


def _wandb(run: str, folder: Path, state: Path) -> tuple[Logger, End]:
    logger = WandbLogger(
        exp_name=run,
        save_dir=str(folder),
        id=fingerprint([str(folder), state.name])[:16],
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        log_env_packages=False,  # what else is installed here is nobody's business
    )
    return logger, lambda well: logger.experiment.finish(exit_code=0 if well else 1)


def _mlflow(run: str, folder: Path, state: Path) -> tuple[Logger, End]:
    import mlflow

    store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    logger = _MLFlow(PROJECT, store)
    mlflow.set_tag("mlflow.runName", run)
    return logger, lambda well: mlflow.end_run("FINISHED" if well else "FAILED")


class _MLFlow(MLFlowLogger):
    """TorchRL's; of a metric's name, MLflow takes no ``@``."""

    def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
        """Logs ``hr@10`` as ``hr_at_10``."""
        super().log_scalar(name.replace("@", "_at_"), value, step)
