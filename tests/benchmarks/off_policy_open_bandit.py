"""Real clicks under two policies: what one would earn, from the other one's log.

    python tests/benchmarks/off_policy_open_bandit.py --root FOLDER --out results/off_policy

FOLDER holds the small Open Bandit log as Parquet, ``{random,bts}_{all,men,women}.parquet``, and
``prior_bts.yaml`` (Saito et al. 2021; the same rows come with the package obp 0.4.1). Each policy
is judged from the other's log, and then by its own: their difference in joint standard errors.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import (
    Estimate,
    LoggedRows,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    self_normalised_doubly_robust,
    snips,
)
from torchrl_drpo.files import write_json, write_text

CAMPAIGNS = ("all", "men", "women")
POSITIONS = 3
ESTIMATORS = {
    "IPS": ips,
    "clipped IPS": clipped_ips,
    "SNIPS": snips,
    "DM": direct_method,
    "DR": doubly_robust,
    "SNDR": self_normalised_doubly_robust,
}


def read(root: Path, policy: str, campaign: str) -> dict[str, Tensor]:
    """Columns of one log, by name."""
    import pyarrow.parquet as pq

    names = ["item_id", "position", "click", "propensity_score"]
    features = [f"user_feature_{number}" for number in range(4)]
    table = pq.read_table(root / f"{policy}_{campaign}.parquet", columns=names + features)
    out = {name: torch.tensor(table[name].to_numpy()).double() for name in names}
    out["item"], out["position"] = out["item_id"].long(), out["position"].long() - 1
    codes = [table[name].cast("string").combine_chunks().dictionary_encode() for name in features]
    # Codes in the order of the texts, so that two logs number them alike where both have them.
    ranks = []
    for code in codes:
        order = sorted(code.dictionary.to_pylist())
        place = torch.tensor([order.index(text) for text in code.dictionary.to_pylist()])
        ranks.append(place[torch.tensor(code.indices.to_numpy()).long()])
    out["features"] = torch.stack(ranks, -1)
    return out


def thompson(root: Path, campaign: str, draws: int = 100_000) -> Tensor:
    """P(item at position) of Bernoulli Thompson sampling by the published priors, ``[L, A]``."""
    prior = yaml.safe_load((root / "prior_bts.yaml").read_text(encoding="utf-8"))[campaign]
    torch.manual_seed(0)
    beta = torch.distributions.Beta(
        torch.tensor(prior["alpha"]).double(), torch.tensor(prior["beta"]).double()
    )
    top = beta.sample((draws,)).topk(POSITIONS).indices
    items = len(prior["alpha"])
    counts = torch.stack([torch.bincount(top[:, at], minlength=items) for at in range(POSITIONS)])
    return (counts.double() + 0.5) / (draws + 0.5 * items)


def frequencies(log: dict[str, Tensor], items: int) -> Tensor:
    """P(item at position) as a week's log shows it, ``[L, A]``."""
    count = torch.zeros(POSITIONS, items).double()
    count.index_put_((log["position"], log["item"]), torch.ones(len(log["item"])).double(), True)
    return (count + 0.5) / (count + 0.5).sum(-1, keepdim=True)


def click_model(log: dict[str, Tensor], items: int, folds: int = 3) -> Tensor:
    """Cross-fitted logistic regression on item, position and features, ``[N, A]``."""
    sizes = [int(column.max()) + 1 for column in log["features"].unbind(-1)]

    def rest() -> Tensor:
        parts = [F.one_hot(log["position"], POSITIONS)]
        parts += [F.one_hot(c, n) for c, n in zip(log["features"].unbind(-1), sizes, strict=True)]
        return torch.cat(parts, -1).double()

    x, item = rest(), log["item"]
    fold = torch.randperm(len(item), generator=torch.Generator().manual_seed(0)) % folds
    out = torch.zeros(len(item), items).double()
    for held in range(folds):
        weight = torch.zeros(items + x.shape[1] + 1).double().requires_grad_()
        mine = fold != held
        optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

        def logits(rows: Tensor, shown: Tensor, weight: Tensor = weight) -> Tensor:
            return weight[shown] + x[rows] @ weight[items:-1] + weight[-1]

        def closure(mine: Tensor = mine, weight: Tensor = weight) -> Tensor:
            weight.grad = None
            found = logits(mine, item[mine])
            loss = F.binary_cross_entropy_with_logits(found, log["click"][mine], reduction="sum")
            loss = loss + 0.5 * weight[:-1].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            base = x[~mine] @ weight[items:-1] + weight[-1]
            out[~mine] = torch.sigmoid(base.unsqueeze(-1) + weight[:items])
    return out


def rows_of(log: dict[str, Tensor], target: Tensor) -> LoggedRows:
    """A log under the policy ``target [L, A]``."""
    at, item = log["position"], log["item"]
    model = click_model(log, target.shape[1])
    return LoggedRows(
        reward=log["click"],
        log_target=target[at, item].log(),
        log_behavior=log["propensity_score"].log(),
        prediction=model.gather(-1, item.unsqueeze(-1))[:, 0],
        value=(target[at] * model).sum(-1),
    )


def cases(root: Path) -> list[dict[str, Any]]:
    """Every campaign, both ways; BTS by its published priors and by the week's frequencies."""
    out = []
    for campaign in CAMPAIGNS:
        random, bts = read(root, "random", campaign), read(root, "bts", campaign)
        items = round(1 / random["propensity_score"][0].item())
        uniform = torch.full((POSITIONS, items), 1 / items).double()
        for name, log, target, truth in (
            ("BTS (priors) from random", random, thompson(root, campaign), bts),
            ("BTS (frequencies) from random", random, frequencies(bts, items), bts),
            ("random from BTS", bts, uniform, random),
        ):
            out.append(_case(campaign, name, rows_of(log, target), truth["click"]))
    return out


def _case(campaign: str, name: str, rows: LoggedRows, own: Tensor) -> dict[str, Any]:
    value, error = own.mean().item(), (own.std() / math.sqrt(len(own))).item()
    found = {label: estimator(rows) for label, estimator in ESTIMATORS.items()}
    return {
        "campaign": campaign,
        "case": name,
        "on_policy": value,
        "on_policy_error": error,
        "estimates": {label: each.to_json() for label, each in found.items()},
        "z": {label: _distance(each, value, error) for label, each in found.items()},
    }


def _distance(estimate: Estimate, value: float, error: float) -> float | None:
    if math.isnan(estimate.standard_error):
        return None
    return (estimate.value - value) / math.hypot(estimate.standard_error, error)


def main() -> None:
    """Writes ``open_bandit.json`` and ``open_bandit.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/off_policy"))
    arguments = parser.parse_args()
    found = cases(arguments.root)
    write_json(arguments.out / "open_bandit.json", found)
    lines = [
        "The small Open Bandit log: each policy from the other one's log, with 95% intervals; z is "
        "the distance to the policy's own clicks in joint standard errors.",
        "",
        "| campaign | policy | own clicks | estimator | estimate | z | verdict |",
        "|:--|:--|--:|:--|:--|--:|:--|",
    ]
    for case in found:
        for name, each in case["estimates"].items():
            at = "" if each["low"] is None else f" [{each['low']:.4f}, {each['high']:.4f}]"
            z = "" if case["z"][name] is None else f"{case['z'][name]:+.2f}"
            lines.append(
                f"| {case['campaign']} | {case['case']} | {case['on_policy']:.4f} | {name} | "
                f"{each['value']:.4f}{at} | {z} | {each['verdict']} |"
            )
    write_text(arguments.out / "open_bandit.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
