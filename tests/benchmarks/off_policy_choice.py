"""Choosing one of eight policies by a log: what is lost against the best, over many logs.

    python tests/benchmarks/off_policy_choice.py --out results/off_policy

A log is made in a small world of its own, whose truth is known. Worlds differ in what makes one
estimator better than another: few rows or many, a logging policy that is even or peaked, and a
reward model of states and items or of items alone. The model is a cross-fitted ridge regression on
the very log. Every way of choosing sees the same logs; regret is the true value
of the best policy less that of the chosen one.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import ESTIMATORS, LoggedRows, choose_policy
from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.rewards import assign_folds

STATES, ITEMS, WIDTH, POLICIES, FOLDS = 40, 30, 6, 8, 5
ROWS = (300, 3_000, 30_000)
#: Of the logging policy: how sharply it follows a belief about rewards, as good as a candidate's.
LOGGERS = {"even": 1.0, "peaked": 8.0}
#: Of the WIDTH numbers that describe a state, how many the reward model sees.
MODELS = {"of state and item": WIDTH, "of items alone": 0}
SETTINGS = list(itertools.product(ROWS, LOGGERS, MODELS))
FIRST_SEED = 0
#: The table's hundred logs; the others say how sure that is.
FIRST = 100
#: The estimators that a choice is made with throughout, for comparison.
ALWAYS = ("IPS", "clipped IPS", "SNIPS", "DM", "DR", "SNDR")


class Log(NamedTuple):
    """One log: its setting, its rows under each policy, and their true values."""

    setting: tuple[int, str, str]
    candidates: dict[str, LoggedRows]
    truth: dict[str, float]


def make_log(seed: int, setting: tuple[int, str, str]) -> Log:
    """A world, a log of it and eight candidates."""
    rows, logger, model = setting
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    state, item = randn(STATES, WIDTH), randn(ITEMS, WIDTH)
    taste = state @ item.T / WIDTH**0.5
    click = torch.sigmoid(-1.5 + taste + 0.5 * randn(ITEMS) + 0.5 * randn(STATES, ITEMS))
    behavior = torch.softmax(LOGGERS[logger] * (click + 0.2 * randn(STATES, ITEMS)), -1)
    policies = {}
    for number in range(POLICIES):
        belief = click + 0.2 * randn(STATES, ITEMS)
        sharpness = 3 + 7 * torch.rand((), generator=g).item()
        policies[f"policy {number}"] = torch.softmax(sharpness * belief, -1)
    at = torch.randint(STATES, (rows,), generator=g)
    action = torch.multinomial(behavior[at], 1, generator=g)[:, 0]
    reward = (torch.rand(rows, generator=g, dtype=torch.float64) < click[at, action]).double()
    fold, tables = ridge_tables(state[:, : MODELS[model]], item, at, action, reward, seed)
    candidates = {
        name: LoggedRows(
            reward=reward,
            log_target=policy[at, action].log(),
            log_behavior=behavior[at, action].log(),
            prediction=tables[fold, at, action],
            value=torch.einsum("na,na->n", policy[at], tables[fold, at]),
        )
        for name, policy in policies.items()
    }
    truth = {name: (policy * click).sum(-1).mean().item() for name, policy in policies.items()}
    return Log(setting, candidates, truth)


def ridge_tables(
    state: Tensor, item: Tensor, at: Tensor, action: Tensor, reward: Tensor, seed: int
) -> tuple[Tensor, Tensor]:
    """Fold of each row, and predictions for all states and items by each fold's model."""
    one_s, one_a = torch.ones(len(state), 1).double(), torch.ones(len(item), 1).double()
    s, a = torch.cat([one_s, state], -1), torch.cat([one_a, item], -1)
    features = torch.einsum("si,aj->saij", s, a).flatten(2)
    fold = assign_folds(len(at), FOLDS, seed=seed)
    tables = []
    for number in range(FOLDS):
        mine = fold != number
        x, y = features[at[mine], action[mine]], reward[mine]
        gram = x.T @ x + 5.0 * torch.eye(x.shape[1]).double()
        mean = y.mean()
        tables.append(features @ torch.linalg.solve(gram, x.T @ (y - mean)) + mean)
    return fold, torch.stack(tables)


def by(name: str) -> Callable[[Mapping[str, LoggedRows]], tuple[str, str]]:
    """Choosing by one estimator, whatever the log."""

    def chosen(candidates: Mapping[str, LoggedRows]) -> tuple[str, str]:
        value = {key: ESTIMATORS[name](rows).value for key, rows in candidates.items()}
        return max(value, key=lambda key: value[key]), name

    return chosen


def by_rule(candidates: Mapping[str, LoggedRows]) -> tuple[str, str]:
    """Choosing by the estimator that the log supports best."""
    found = choose_policy(candidates)
    return found.policy, found.estimator


def regrets(logs: int, first_seed: int) -> list[dict[str, Any]]:
    """One entry a log: its setting, and what each way of choosing loses."""
    ways = {"our rule": by_rule} | {f"always {name}": by(name) for name in ALWAYS}
    out = []
    for number in range(logs):
        log = make_log(first_seed + number, SETTINGS[number % len(SETTINGS)])
        best = max(log.truth.values())
        chosen = {name: way(log.candidates) for name, way in ways.items()}
        regret = {name: best - log.truth[policy] for name, (policy, _) in chosen.items()}
        regret["at random"] = best - sum(log.truth.values()) / len(log.truth)
        regret["the best (oracle)"] = 0.0
        rows, logger, model = log.setting
        out.append(
            {
                "seed": first_seed + number,
                "rows": rows,
                "logger": logger,
                "model": model,
                "rule_took": chosen["our rule"][1],
                "regret": regret,
            }
        )
    return out


def summary(found: list[dict[str, Any]], first: int) -> dict[str, Any]:
    """Mean regrets with standard errors, of all logs and of parts of them."""
    parts = {f"first {first} logs": found[:first], f"all {len(found):,} logs": found}
    parts |= {f"{n:,} rows": [each for each in found if each["rows"] == n] for n in ROWS}
    parts |= {f"logger {x}": [each for each in found if each["logger"] == x] for x in LOGGERS}
    parts |= {f"model {m}": [each for each in found if each["model"] == m] for m in MODELS}
    took = [each["rule_took"] for each in found]
    out: dict[str, Any] = {
        "seeds": [found[0]["seed"], found[-1]["seed"]],
        "rule_took": {name: took.count(name) for name in sorted({*took}, key=took.count)[::-1]},
    }
    out["parts"] = {
        label: {
            name: {
                "regret": _mean([each["regret"][name] for each in part]),
                "more_than_rule": _mean(
                    [each["regret"][name] - each["regret"]["our rule"] for each in part]
                ),
            }
            for name in found[0]["regret"]
        }
        for label, part in parts.items()
    }
    return out


def _mean(values: list[float]) -> list[float]:
    """Mean and its standard error."""
    given = torch.tensor(values, dtype=torch.float64)
    return [given.mean().item(), (given.std() / len(given) ** 0.5).item()]


def page(found: dict[str, Any]) -> str:
    """The tables."""
    first, whole, *rest = found["parts"]
    most = ", ".join(f"{name} {count}" for name, count in found["rule_took"].items())
    lines = [
        f"Regret of choosing one of {POLICIES} policies, mean over logs with standard error, in "
        "units of the reward (a click): the true value of the best policy less that of the chosen. "
        f"Logs of {', '.join(f'{n:,}' for n in ROWS)} rows, by a logging policy that is "
        f"{' or '.join(LOGGERS)}, with a reward model {' or '.join(MODELS)}, in turn; seeds "
        f"{found['seeds'][0]} to {found['seeds'][1]}. Differences to our rule are paired by log. "
        "Made by `tests/benchmarks/off_policy_choice.py`; the rule was made on other seeds.",
        "",
        f"| choosing | {first} | more than our rule | {whole} | more than our rule |",
        "|:--|--:|--:|--:|--:|",
    ]
    for name in found["parts"][whole]:
        cells = []
        for part in (first, whole):
            each = found["parts"][part][name]
            cells.append("{:.4f} ± {:.4f}".format(*each["regret"]))
            ours = name == "our rule"
            cells.append("" if ours else "{:+.4f} ± {:.4f}".format(*each["more_than_rule"]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", f"By setting, over {whole}; the rule took {most}.", ""]
    lines += ["| choosing | " + " | ".join(rest) + " |", "|:--|" + "--:|" * len(rest)]
    for name in found["parts"][whole]:
        cells = [f"{found['parts'][part][name]['regret'][0]:.4f}" for part in rest]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes ``choice.json`` and ``choice.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/off_policy"))
    parser.add_argument("--logs", type=int, default=1_000)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = summary(regrets(arguments.logs, arguments.first_seed), FIRST)
    write_json(arguments.out / "choice.json", found)
    write_text(arguments.out / "choice.md", page(found))


if __name__ == "__main__":
    main()
