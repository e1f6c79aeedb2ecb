"""What a run's numbers say about what to do next: plain functions from results to sentences.

Every sentence names the numbers that it rests on. Nothing is advised that no number speaks for.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.page.folder import Curve, Run
from torchrl_drpo.pipeline.parts import MANY_COLD
from torchrl_drpo.pipeline.reward_model.log_reward import reward_warnings
from torchrl_drpo.references import is_reference
from torchrl_drpo.spelling import counted

#: Policies whose commands are spelled out at most.
_POLICIES = 3
#: Of a context's hits of the policy that hits it most, the share below which it is said aloud.
_FORSAKEN = 0.5


def best_policies(run: Run) -> list[str]:
    """The trained policies that no other one beats in both hits and lift, most hits first.

    Lift is that within contexts where the log has some. A policy whose hits or lift are no finite
    numbers is left out; of an infinite lift, :func:`hints` say so.
    """
    metrics = hits_and_lift(run)
    means = {
        name: tuple(run.results.summary[name][metric].mean for metric in metrics)
        for name in run.objectives
    }
    known = {name: both for name, both in means.items() if all(map(math.isfinite, both))}
    best = [
        name
        for name, both in known.items()
        if not any(
            other != both and all(o >= b for o, b in zip(other, both, strict=True))
            for other in known.values()
        )
    ]
    return sorted(best, key=lambda name: -known[name][0])


def infinite_lifts(run: Run) -> list[str]:
    """The trained policies whose lift is over no hit of a worst row, in one seed at least."""
    metric = hits_and_lift(run)[1]
    # Of the seeds, not of the mean: beside a seed that hit nothing, whose lift is NaN, it is NaN.
    return [name for name in run.objectives if _infinite_seeds(run, name, metric)]


def _infinite_seeds(run: Run, name: str, metric: str) -> int:
    return sum(math.isinf(seed[metric]) for seed in run.results.runs[name])


def hits_and_lift(run: Run) -> tuple[str, str]:
    """Names of the two metrics that policies are compared in."""
    k = run.results.k
    summaries = [run.results.summary[name] for name in run.objectives]
    within = [each[f"lift@{k}_within"] for each in summaries if f"lift@{k}_within" in each]
    has = not all(math.isnan(each.mean) for each in within)  # infinite, it is one all the same
    return f"hr@{k}_best", f"lift@{k}_within" if has else f"lift@{k}"


def commands(run: Run) -> list[tuple[str, list[str]]]:
    """What to give next for each of the best policies: its name, and command lines."""
    log = run.further("log") or {}
    if log.get("dataset"):
        where = f"--dataset {shlex.quote(log['dataset'])} --root {shlex.quote(log['root'] or '')}"
    else:
        # Runs of earlier releases kept the file's name alone.
        where = f"--logs {shlex.quote(log.get('logs') or str(run.results.config['logs']))}"
    ks = " ".join(map(str, run.results.config["ks"]))
    ope = " --ope" if run.results.values is not None else ""
    user = " --user ID" if run.results.data.get("users") else ""
    encoder = (run.results.config.get("model") or {}).get("encoder", "")
    trusted = f" --allow-code {shlex.quote(encoder)}" if is_reference(encoder) else ""
    found = []
    for name in (best_policies(run) or _most_hits(run))[:_POLICIES]:
        folder = shlex.quote(str(run.results.checkpoints[name]))
        graph = shlex.quote(str(run.folder / f"{file_name(name)}-graph"))
        lines = [
            f"drpo recommend --checkpoint {folder}{user} --k {run.results.k}{trusted}",
            f"drpo evaluate --checkpoint {folder} {where} --ks {ks} --details{ope}{trusted}",
            f"drpo export --checkpoint {folder} --output {graph}{trusted}",
        ]
        found.append((name, lines))
    return found


def _most_hits(run: Run) -> list[str]:
    """The trained policies by hits alone, where no lift is a finite number."""
    hits, _ = hits_and_lift(run)
    means = {name: run.results.summary[name][hits].mean for name in run.objectives}
    known = [name for name in run.objectives if math.isfinite(means[name])]
    return sorted(known, key=lambda name: -means[name])


def hints(run: Run) -> list[str]:
    """What the numbers say, in sentences; in the order of what to heed first."""
    return [
        *_of_the_model(run),
        *_of_baselines(run),
        *_of_infinite_lifts(run),
        *_of_two(run),
        *_of_contexts(run),
        *_of_values(run),
        *_of_steps(run),
        *_of_cold_items(run),
    ]


def _of_the_model(run: Run) -> Iterator[str]:
    yield from run.results.notes
    facts = run.results.reward_model
    if facts is None:
        return
    yield from reward_warnings(facts)
    item = facts["explained_variance"] - facts["explained_variance_of_state"]
    if facts["explained_variance"] > 0 and item < facts["explained_variance_error"]:
        yield (
            f"Of the {facts['explained_variance']:.1%} of variance that the reward model explains, "
            f"the item adds {item:.1%}, less than one standard error "
            f"({facts['explained_variance_error']:.1%}): what follows the model has little to "
            "choose items by."
        )


def _of_baselines(run: Run) -> Iterator[str]:
    hits, _ = hits_and_lift(run)
    means = {name: values[hits].mean for name, values in run.results.summary.items()}
    learned = [name for name in run.objectives if math.isfinite(means[name])]
    rest = [name for name in means if name not in run.objectives and math.isfinite(means[name])]
    if not learned or not rest:
        return
    best, rival = max(learned, key=means.__getitem__), max(rest, key=means.__getitem__)
    if means[rival] >= means[best]:
        yield (
            f"{rival}, which learns no policy, hits {means[rival]:.3f} of the best rows, as many "
            f"as or more than every trained policy ({best}: {means[best]:.3f}). These were trained "
            f"for {run.results.config['steps']:,} steps; more (--steps) may change that."
        )


def _of_infinite_lifts(run: Run) -> Iterator[str]:
    """Lifts over no hit of a worst row, which win nothing."""
    metric, poor = hits_and_lift(run)[1], f"{run.results.parts.test.poor:,} poor held-out rows"
    found = []
    for name in infinite_lifts(run):
        seeds = _infinite_seeds(run, name, metric)
        found.append(name if run.seeds == 1 else f"{name} (in {seeds} of {run.seeds} seeds)")
    if metric.endswith("_within"):
        poor = f"poor held-out rows (of {poor}) that stand beside good ones in a context"
    if found:
        yield (
            f"Lists of {run.results.k} hit none of the {poor}: of {', '.join(found)}. Such a lift "
            "is infinite, which says only that the rows are too few to tell its size: it is "
            "compared with no other. Hold out more rows (--test-days, --test-share), look at "
            "longer lists (--ks), or go by hits."
        )


def _of_two(run: Run) -> Iterator[str]:
    """Whether the two policies with the most lift, and the two with the most hits, differ."""
    if run.seeds == 1:
        unit = "users" if run.results.data.get("users") else "rows"
        yield (
            f"One seed: the intervals are over {unit}, and what another seed would change is not "
            "known. --seeds 3 shows it."
        )
    for metric, said in zip(hits_and_lift(run), ("hits of best rows", "lift"), strict=True):
        values = {name: run.results.summary[name][metric] for name in run.objectives}
        order = sorted(
            (name for name in values if math.isfinite(values[name].mean)),
            key=lambda name: -values[name].mean,
        )
        if len(order) < 2:
            continue
        first, second = order[:2]
        if run.seeds > 1:
            gap = paired(run, first, second, metric)
            if not gap.above():
                yield (
                    f"In {said}, {first} is ahead of {second} by {gap} (paired by seed, "
                    f"{counted(run.seeds, 'seed')}). That interval holds zero: these runs do not "
                    f"tell the two apart; more seeds may (--seeds {max(5, 2 * run.seeds)})."
                )
        elif values[first].mean - values[second].mean < (
            values[first].half_width + values[second].half_width
        ):
            yield (
                f"In {said}, the intervals of {first} ({values[first]}) and {second} "
                f"({values[second]}) overlap."
            )


def paired(run: Run, first: str, second: str, metric: str) -> Interval:
    """What one policy has above another in a metric, paired by seed."""
    pairs = zip(run.results.runs[first], run.results.runs[second], strict=True)
    return mean_interval([a[metric] - b[metric] for a, b in pairs])


def _of_contexts(run: Run) -> Iterator[str]:
    contexts = run.further("contexts")
    if not contexts:
        return
    for place, group in enumerate(contexts["groups"]):
        hit = {
            name: contexts["summary"][name]["best"][place]["mean"]
            for name in run.objectives
            if name in contexts["summary"]
        }
        hit = {name: rate for name, rate in hit.items() if isinstance(rate, float)}
        if len(hit) < 2:
            continue
        most = max(hit, key=hit.__getitem__)
        left = [name for name, rate in hit.items() if rate < _FORSAKEN * hit[most]]
        if left:
            listed = ", ".join(f"{name} {hit[name]:.3f}" for name in left)
            yield (
                f"{group['name']} is hit less than half as often as {most} hits it "
                f"({hit[most]:.3f} of {group['best_rows']:,} best rows) by: {listed}. Where that "
                "context must be served, compare lift within contexts."
            )


def _of_values(run: Run) -> Iterator[str]:
    values = run.results.values
    if values is None:
        return
    found = values.to_json()["summary"]
    left = [name for name in run.objectives if found[name]["verdict"] == "meaningless"]
    if left:
        yield (
            f"The value of {', '.join(left)} cannot be told from this log's propensities: "
            "results.json has the reasons."
        )


def _of_steps(run: Run) -> Iterator[str]:
    falling = [
        name
        for name, seeds in run.curves.get("loss_actor", {}).items()
        if seeds and all(map(still_falls, seeds))
    ]
    if falling:
        yield (
            f"The loss of {', '.join(falling)} still fell in the last quarter of its "
            f"{run.results.config['steps']:,} steps, in every seed: more --steps may change the "
            "numbers."
        )


def still_falls(curve: Curve) -> bool:
    """Whether the last quarter's mean lies clearly below that of the quarter before.

    Clearly: by more than twice the standard error of the difference, and by 1% of what the loss
    fell in all. Fewer than 16 points say nothing.
    """
    values = [value for _, value in curve]
    size = len(values) // 4
    if size < 4 or not all(map(math.isfinite, values)):
        return False
    before, last = values[-2 * size : -size], values[-size:]
    fell = _mean(before) - _mean(last)
    error = math.sqrt((_variance(before) + _variance(last)) / size)
    return fell > 2 * error and fell > 0.01 * (max(values) - min(values))


def _of_cold_items(run: Run) -> Iterator[str]:
    cold, rows = run.results.parts.cold_rows, run.results.parts.test.rows
    config = run.results.config
    over_numbers = "policy" not in config and "item_table" not in config["model"]
    if cold > MANY_COLD * rows and over_numbers:
        yield (
            f"{cold / rows:.0%} of the held-out rows are of items that training never showed; a "
            "policy over item numbers cannot rank these. An item table in the schema can "
            "(--item-table features or codes, or --policy semantic-id); drpo tokenize makes codes "
            "of vectors."
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
