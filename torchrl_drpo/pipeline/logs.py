"""``drpo validate`` and ``drpo convert``: what a log holds, and its converted form."""

from __future__ import annotations

from dataclasses import asdict

from torchrl_drpo.data import (
    ConversionReport,
    StoreReport,
    ValidationReport,
    convert_log,
    verify_store,
)
from torchrl_drpo.data import validate_log as validate
from torchrl_drpo.pipeline.config.log import (
    ConvertConfig,
    ValidateConfig,
    log_files,
    split_of,
)
from torchrl_drpo.pipeline.terminal import progress_bars, say


def run_validate(config: ValidateConfig) -> int:
    """Carries out ``drpo validate``; returns the exit code."""
    report: ValidationReport | StoreReport
    if config.store is not None:
        report = verify_store(config.store)
        say(report.to_json() if config.json else str(report))
        return 0 if report.ok else 1
    schema = config.log_schema()
    with progress_bars() as progress:
        report = validate(
            log_files(config),
            schema,
            max_examples=config.examples,
            progress=progress,
            **split_of(config, schema),
        )
    say(report.to_json() if config.json else str(report))
    return 0 if report.ok else 1


def run_convert(config: ConvertConfig) -> None:
    """Carries out ``drpo convert``."""
    schema = config.log_schema()
    with progress_bars() as progress:
        report: ConversionReport = convert_log(
            config.logs,
            config.root,
            schema,
            bad_rows=config.bad_rows,
            overwrite=config.overwrite,
            executor=config.workers,
            progress=progress,
            **split_of(config, schema),
        )
    if config.json:
        say(report.to_json())
        return
    facts = {name: value for name, value in asdict(report).items() if value}
    for name, value in facts.items():
        say(f"{name.replace('_', ' ')}: {value}")
    say(f"converted into {config.root}; open it with RecReplayBuffer.open({str(config.root)!r})")
