"""The commands of ``drpo``: what each is, where its options lie, and what carries it out."""

from __future__ import annotations

from typing import NamedTuple


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
    "schema": Command(
        "look at a log and draft its schema, with the reasons and what is left to answer",
        "torchrl_drpo.pipeline.config.draft:SchemaDraftConfig",
        "torchrl_drpo.pipeline.schema:run_schema",
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
    "tokenize": Command(
        "give items semantic IDs (codes) from their vectors, and report how good codes are",
        "torchrl_drpo.pipeline.config.tokenize:TokenizeConfig",
        "torchrl_drpo.pipeline.tokenize:command",
    ),
    "train": Command(
        "train policies on a log and evaluate them on its last days",
        "torchrl_drpo.pipeline.config.train:TrainConfig",
        "torchrl_drpo.pipeline.train:command",
    ),
    "report": Command(
        "draw the page of a finished run again, or compare several runs on one page",
        "torchrl_drpo.pipeline.config.report:ReportConfig",
        "torchrl_drpo.pipeline.page.command:command",
    ),
    "tune": Command(
        "choose an objective's settings on days inside the training period",
        "torchrl_drpo.pipeline.config.tune:TuneConfig",
        "torchrl_drpo.pipeline.tune.command:command",
    ),
    "evaluate": Command(
        "evaluate a trained policy on the last days of a log",
        "torchrl_drpo.pipeline.config.serve:EvaluateConfig",
        "torchrl_drpo.pipeline.evaluate:command",
    ),
    "recommend": Command(
        "list the items that a trained policy recommends: a user, a file of users, a service",
        "torchrl_drpo.pipeline.config.serve:RecommendConfig",
        "torchrl_drpo.pipeline.recommend:command",
    ),
    "export": Command(
        "write a trained policy as a torch.export or ONNX graph that runs without this package",
        "torchrl_drpo.pipeline.config.serve:ExportConfig",
        "torchrl_drpo.pipeline.export:command",
    ),
    "doctor": Command(
        "say what is installed, what runs where, what is missing; check every op in seconds",
        "torchrl_drpo.pipeline.config.doctor:DoctorConfig",
        "torchrl_drpo.pipeline.doctor.command:command",
    ),
    "cost": Command(
        "print what a training step among many GPUs costs on paper: bytes, operations, time",
        "torchrl_drpo.pipeline.config.cost:CostConfig",
        "torchrl_drpo.pipeline.cost:command",
    ),
    "reproduce": Command(
        "reproduce tables, figures and claims, and report what held and what did not",
        "torchrl_drpo.reproduction.config:ReproduceConfig",
        "torchrl_drpo.reproduction.command:run",
    ),
}
