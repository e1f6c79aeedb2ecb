"""``drpo simulate``: a log of the simulator as Parquet, its schema and items beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchrl_drpo.data import ItemTable, LogSchema
from torchrl_drpo.envs import RecSimEnv
from torchrl_drpo.files import replacing, write_text
from torchrl_drpo.pipeline.config.log import SimulateConfig
from torchrl_drpo.pipeline.terminal import say

#: A simulated log is spread over ten days, so that its last days can be held out.
SECONDS_LOGGED = 10 * 86_400


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
    items = config.output.with_suffix(".items.parquet")
    _write_table({"item": pa.array(range(count), pa.int64()), "vector": vectors}, items)
    _write_table(columns, config.output)
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
    described = config.output.with_suffix(".schema.json")
    write_text(described, schema.to_json())
    say(f"{config.rows:,} rows: {config.output}   items: {items}   schema: {described}")


def _write_table(columns: dict[str, Any], path: Path) -> None:
    """Writes a Parquet file in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")
