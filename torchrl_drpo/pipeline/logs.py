"""``drpo validate``, ``convert`` and ``simulate``: logs in, logs out."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchrl_drpo.data import (
    ConversionReport,
    ItemTable,
    LogSchema,
    ValidationReport,
    convert_log,
)
from torchrl_drpo.data import validate_log as validate
from torchrl_drpo.envs import RecSimEnv
from torchrl_drpo.files import write_text
from torchrl_drpo.pipeline.log_config import SchemaConfig
from torchrl_drpo.pipeline.terminal import progress_bars, say

#: A simulated log is spread over ten days, so that its last days can be held out.
SECONDS_LOGGED = 10 * 86_400


@dataclass(frozen=True)
class ValidateConfig(SchemaConfig):
    """Report every fault of a log, with counts and example rows; exit code 1 if there are errors.

    Attributes:
        examples: most examples of each fault.
        json: print the report as JSON.
    """

    examples: int = 3
    json: bool = False


@dataclass(frozen=True)
class ConvertConfig(SchemaConfig):
    """Convert a log into memory-mapped columns for RecReplayBuffer.open; resumes when killed.

    Attributes:
        root: folder of the result.
        bad_rows: "error" stops at the first faulty row, "drop" counts and leaves out.
        overwrite: replace a different conversion, once the new one is complete.
        json: print the report as JSON.
    """

    root: Path = Path("converted")
    bad_rows: str = "error"
    overwrite: bool = False
    json: bool = False


@dataclass(frozen=True)
class SimulateConfig:
    """Write a simulated log (RecSim, arXiv 2602.10430) as Parquet, its schema and items beside it.

    The user's state is declared as the rows' features, the items' vectors as their embeddings.

    Attributes:
        out: Parquet file; the schema goes to the same name with .schema.json, the items and their
            vectors to the same name with .items.parquet, which the schema names: keep the three in
            one folder, and name this file, not the folder, as the log.
        rows: logged rows.
        scenario: logging mixture: "extreme" (90% random) or "medium".
        setting: simulator setting: "table" or "collapse".
        seed: of the world and of the log.
    """

    out: Path = Path("recsim.parquet")
    rows: int = 100_000
    scenario: str = "extreme"
    setting: str = "table"
    seed: int = 0


def run_validate(config: ValidateConfig) -> int:
    """Carries out ``drpo validate``; returns the exit code."""
    report: ValidationReport = validate(
        config.logs,
        config.log_schema(),
        test_days=config.test_days,
        max_examples=config.examples,
    )
    say(report.to_json() if config.json else str(report))
    return 0 if report.ok else 1


def run_convert(config: ConvertConfig) -> None:
    """Carries out ``drpo convert``."""
    with progress_bars() as progress:
        report: ConversionReport = convert_log(
            config.logs,
            config.root,
            config.log_schema(),
            test_days=config.test_days,
            bad_rows=config.bad_rows,
            overwrite=config.overwrite,
            progress=progress,
        )
    if config.json:
        say(report.to_json())
        return
    facts = {name: value for name, value in asdict(report).items() if value}
    for name, value in facts.items():
        say(f"{name.replace('_', ' ')}: {value}")
    say(f"converted into {config.root}; open it with RecReplayBuffer.open({str(config.root)!r})")


def run_simulate(config: SimulateConfig) -> None:
    """Carries out ``drpo simulate``: one row an impression, its state and propensity included."""
    import pyarrow as pa

    env = RecSimEnv(config.setting, seed=config.seed)
    log = env.simulate_log(config.rows, config.scenario, seed=config.seed + 1)
    state = log["observation"].numpy()
    columns = {
        "time": pa.array(row * SECONDS_LOGGED // config.rows for row in range(config.rows)),
        "item": pa.array(log["item"].flatten().numpy()),
        "reward": pa.array(log["next", "reward"].flatten().numpy()),
        "latent_reward": pa.array(log["latent_reward"].flatten().numpy()),
        "propensity": pa.array(log["propensity"].flatten().double().numpy()),
    }
    features = tuple(f"state_{j}" for j in range(state.shape[1]))
    columns |= {name: pa.array(state[:, j]) for j, name in enumerate(features)}
    count, width = env.items.shape
    ends = pa.array(range(0, count * width + 1, width), pa.int32())
    vectors = pa.ListArray.from_arrays(ends, pa.array(env.items.numpy().reshape(-1)))
    items = config.out.with_suffix(".items.parquet")
    _write_table({"item": pa.array(range(count), pa.int64()), "vector": vectors}, items)
    _write_table(columns, config.out)
    schema = LogSchema(
        item="item",
        time="time",
        quality="reward",
        propensity="propensity",
        features=features,
        labels=("latent_reward",),
        duplicates="keep",  # without a user, two equal rows are two events
        items=ItemTable(path=items.name, id="item", embedding="vector"),
    )
    described = config.out.with_suffix(".schema.json")
    write_text(described, schema.to_json())
    say(f"{config.rows:,} rows: {config.out}   items: {items}   schema: {described}")


def _write_table(columns: dict[str, Any], path: Path) -> None:
    """Writes a Parquet file in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.table(columns), partial, compression="zstd")
    os.replace(partial, path)
