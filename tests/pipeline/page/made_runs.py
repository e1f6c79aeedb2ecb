"""Folders of runs as ``drpo train`` writes them, of made-up numbers: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torchrl_drpo.files import write_json, write_sealed_json
from torchrl_drpo.pipeline.parts import PartCounts, PartFacts
from torchrl_drpo.pipeline.results import TrainResults
from torchrl_drpo.pipeline.table import metrics_json, summarise

EVIL = "<script>alert('$x')</script>"
RUNS = {
    "random": [{"hr@5_best": 0.1, "hr@5_worst": 0.1, "lift@5": 1.0, "top100_quality": 0.5}],
    "bc": [
        {"hr@5_best": 0.31, "hr@5_worst": 0.3, "lift@5": 1.0375, "top100_quality": 0.52},
        {"hr@5_best": 0.35, "hr@5_worst": 0.32, "lift@5": 1.0825, "top100_quality": 0.51},
    ],
    "drpo": [
        {"hr@5_best": 0.42, "hr@5_worst": 0.2, "lift@5": 2.1125, "top100_quality": 0.61},
        {"hr@5_best": 0.36, "hr@5_worst": 0.18, "lift@5": 2.0375, "top100_quality": 0.63},
    ],
}
CONTEXTS = {
    "k": 5,
    "columns": ["tab"],
    "groups": [{"name": f"tab={EVIL}", "rows": 900, "best_rows": 200, "worst_rows": 300}],
    "left_out": 2,
    "summary": {
        name: {kind: [{"mean": rate, "half_width": 0.02}] for kind, rate in rates.items()}
        for name, rates in {
            "random": {"best": 0.1, "worst": 0.1},
            "bc": {"best": 0.4, "worst": 0.375},
            "drpo": {"best": 0.125, "worst": 0.05},
        }.items()
    },
}
CALIBRATION = [
    {"rows": 1234, "predicted": 0.1875, "observed": 0.2125, "half_width": 0.0123},
    {"rows": 1233, "predicted": 0.8125, "observed": 0.7875, "half_width": None},
]
REWARD = {
    "explained_variance": 0.31,
    "explained_variance_error": 0.02,
    "explained_variance_of_state": 0.305,
    "scale": 0.4,
    "rows": 2467,
    "folds": 2,
    "folds_of": "users",
}
FURTHER = {
    "log": {"logs": "my logs/log.parquet", "dataset": None, "root": None},
    "mean_quality": {"train": 0.4875, "test": 0.4625},
    "days": ["2022-04-25", "2022-05-08"],
    "held_out_rows": "a" * 64,
    "contexts": CONTEXTS,
    "reward_calibration": CALIBRATION,
}


def make_run(folder: Path, **changes: Any) -> Path:
    """A run's folder; ``changes`` are fields of its results, or ``config``'s further settings."""
    config = {"logs": "log.parquet", "ks": [5], "steps": 100, "model": {"dim": 8}}
    config |= {"objectives": ["bc", "drpo"], "seeds": 2, "first_seed": 0}
    config |= changes.pop("config", {})
    data = {"rows": 4000, "users": 60, "items": 50, "duplicates": 3, "dropped": {}}
    data |= {"parts": {"train": 2467, "test": 1533}}
    train, test = PartCounts(2467, 60, 600, 610), PartCounts(1533, 58, 380, 390)
    given: dict[str, Any] = {
        "summary": summarise(RUNS),
        "runs": RUNS,
        "data": data,
        "config": config,
        "k": 5,
        "checkpoints": {name: folder / name for name in config["objectives"]},
        "parts": PartFacts("the last 3 days", "2022-05-06", train, test, 40, 4, 2),
        "reward_model": REWARD,
        "notes": (f"bc-tilt: left out, {EVIL}.",),
        "further": FURTHER,
    }
    results = TrainResults(**given | changes)
    write_json(folder / "results.json", results.to_json())
    for objective in ("bc", "drpo"):
        for seed, metrics in enumerate(RUNS[objective]):
            points = [[step, 3.0 - step / 100 - seed / 10] for step in range(0, 101, 20)]
            curve = {"loss_actor": points}
            curve |= {"kappa": [[s, 0.5] for s, _ in points]} if objective == "drpo" else {}
            run = {"metrics": metrics_json(metrics), "curve": curve}
            write_sealed_json(folder / "runs" / f"{objective}-{seed}.json", run)
    return folder


def change(folder: Path, **values: Any) -> None:
    """Changes entries of a run's results; ``None`` takes one away."""
    path = folder / "results.json"
    data = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
