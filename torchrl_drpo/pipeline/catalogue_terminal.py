"""What ``drpo train``, ``evaluate`` and ``recommend`` show: tables, or JSON for machines."""

from __future__ import annotations

from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.config import TrainCatalogueConfig
from torchrl_drpo.pipeline.evaluate import EvaluateConfig, run_evaluate
from torchrl_drpo.pipeline.recommend import RecommendConfig, run_recommend
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say, show
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.report.tables import Table


def train(config: TrainCatalogueConfig) -> None:
    """``drpo train``."""
    with progress_bars() as progress:
        results = run_train(config, progress)
    if config.json:
        print_json(results.to_json())
        return
    data = results.data
    users = f" of {data['users']:,} users" if data["users"] else ""
    say(
        f"{data['rows']:,} rows{users} and {data['items']:,} items "
        f"({data['duplicates']:,} exact duplicates left out); tested from {data['first_test_day']}"
    )
    show(results.table(upright=True))
    if results.reward_model is not None:
        facts = results.reward_model
        say(
            f"reward model: explains {facts['explained_variance']:.1%} of the variance of rewards "
            f"it had not seen, {facts['explained_variance_of_state']:.1%} without the item"
        )
    for objective, folder in results.checkpoints.items():
        say(f"{objective}: drpo recommend --checkpoint {folder} --user ID")
    say(f"numbers: {config.output / 'results.json'}   table: {config.output / 'table.md'}")


def evaluate(config: EvaluateConfig) -> None:
    """``drpo evaluate``."""
    found = run_evaluate(config)
    if config.json:
        metrics = {name: report.metrics_json(values) for name, values in found.metrics.items()}
        print_json({"rows": found.rows, "unknown_rows": found.unknown_rows, "metrics": metrics})
        return
    summary = report.summarise({name: [values] for name, values in found.metrics.items()})
    title = f"{found.rows:,} held-out rows ({found.unknown_rows:,} of unknown items left out)"
    show(report.table(summary, title, found.k, upright=True))


def recommend(config: RecommendConfig) -> None:
    """``drpo recommend``."""
    found = run_recommend(config)
    if config.json:
        items = [place._asdict() for place in found]
        print_json({"user": config.user, "recommendations": items})
        return
    rows = [[str(rank), str(p.item), f"{p.score:.3f}"] for rank, p in enumerate(found, start=1)]
    whom = "somebody new" if config.user is None else f"user {config.user}"
    show(Table(f"For {whom}", ["rank", "item", "score (logit)"], rows))
