"""The recipe beyond DRPO as its command trains it, on simulated logs, judged by the truth.

    python tests/benchmarks/embedding_recsim.py --out results/embedding

For each setting, mixture and seed: `drpo simulate` writes a log of item numbers, states and item
vectors, `drpo train --policy embedding` learns from its first seven days, and the simulator, which
knows what users want, rewards what the checkpoints serve to new users. Seeds are none of those
that anything was chosen on; training days hold as many rows as the setting's log has in the paper's
tables. A seed that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch

OBJECTIVES = ("bc", "positive-only", "drpo", "tapered", "uphill", "uphill-tapered")
SETUPS = [(a, b) for a in ("table", "collapse") for b in ("medium", "extreme")]
TRAINING_ROWS = {"table": 3_000, "collapse": 10_000}
FIRST_SEED, STEPS, NEW_USERS = 300, 2_000, 1_024


def run(setting: str, scenario: str, seed: int, steps: int) -> dict[str, float]:
    """Latent reward of what each objective's policy serves to new users, and the oracle's."""
    from torchrl_drpo import RecSimEnv, cli
    from torchrl_drpo.envs.streams import stream_seed
    from torchrl_drpo.evaluation import oracle_reward, random_reward

    with tempfile.TemporaryDirectory(prefix="drpo-recsim-") as scratch:
        folder = Path(scratch)
        rows = math.ceil(TRAINING_ROWS[setting] / 0.7)  # the last 3 of 10 days are held out
        simulate = f"simulate --output {folder / 'log.parquet'} --rows {rows} --setting {setting}"
        _do(cli.main, f"{simulate} --scenario {scenario} --seed {seed}".split())
        train = f"train --logs {folder / 'log.parquet'} --schema {folder / 'log.schema.json'}"
        train += f" --output {folder} --policy embedding --steps {steps} --batch-size 320"
        train += " --learning-rate 3e-4 --json --objectives"
        _do(cli.main, [*train.split(), *OBJECTIVES])
        env = RecSimEnv(setting, seed=seed)
        users = env.draw_states(NEW_USERS, seed=stream_seed(seed, "users"))
        interest = env.world.interest(users)
        found = {
            "random": random_reward(interest, env.items, delta=env.setting.delta).mean(),
            "oracle": oracle_reward(interest, env.items, delta=env.setting.delta).mean(),
        }
        for objective in OBJECTIVES:
            item = _served(folder / objective, users)
            found[objective] = env.world.latent_reward(interest, item).mean()
        return {name: float(value) for name, value in found.items()}


@torch.no_grad()
def _served(checkpoint: Path, users: torch.Tensor) -> torch.Tensor:
    """The simulator's numbers of the items that a policy serves to new users."""
    from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint

    loaded = PolicyCheckpoint.load(checkpoint)
    empty = torch.zeros(0, dtype=torch.long)
    states = torch.stack([loaded.state(empty, features=user) for user in users])
    _, index = loaded.index().top_k(states, 1)
    return torch.tensor(loaded.items.decode(index.squeeze(-1)))


def _do(main, arguments: list[str]) -> None:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    if code:
        raise SystemExit(code)


def tables(runs: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: one table, with differences to positive-only learning, paired by seed."""
    from torchrl_drpo.evaluation import mean_interval

    lines = ["| policy | " + " | ".join(runs) + " |", "|:--|" + "--:|" * len(runs)]
    for name in ("random", *OBJECTIVES, "oracle"):
        cells = []
        for seeds in runs.values():
            cell = str(mean_interval([seed[name] for seed in seeds]))
            if name not in ("random", "oracle", "positive-only"):
                gain = mean_interval([seed[name] - seed["positive-only"] for seed in seeds])
                cell += f" ({gain.mean:+.3f} ± {gain.half_width:.3f})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path("results/embedding"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "recsim.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    runs = known.get("runs", {}) if known.get("steps") == arguments.steps else {}
    for number in range(arguments.seeds):
        for setting, scenario in SETUPS:
            mine = runs.setdefault(f"{setting}, {scenario}", [])
            if len(mine) == number:
                mine.append(run(setting, scenario, FIRST_SEED + number, arguments.steps))
                print(number, setting, scenario, mine[-1], flush=True)  # noqa: T201
                facts = {"steps": arguments.steps, "first_seed": FIRST_SEED, "runs": runs}
                path.write_text(json.dumps(facts, indent=1))
    text = "\n".join(
        [
            "# The recipe beyond DRPO, as `drpo train --policy embedding` trains it",
            "",
            "Latent reward of the item served to 1,024 new users, mean over "
            f"{arguments.seeds} seeds with 95% t intervals; in brackets the difference to "
            "positive-only, paired by seed.",
            "",
            tables(runs),
            "",
            "Made by `python tests/benchmarks/embedding_recsim.py`.",
            "",
        ]
    )
    (arguments.out / "recsim.md").write_text(text)
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
