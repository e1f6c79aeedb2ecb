"""The cells of ``du1`` by mode: kappa fixed, or learned; their gains and events."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from torchrl_drpo.evaluation.statistics import Interval, paired_interval
from torchrl_drpo.reproduction.controlled.recording import Watch
from torchrl_drpo.reproduction.controlled.results import Runs
from torchrl_drpo.reproduction.target import Results

MODES = ("fixed", "learned")
#: Mean entropy in nats below which a policy has come to one action: a perplexity of 1.05.
MIN_ENTROPY = 0.05


class Mode:
    """The arms with kappa fixed, or with kappa learned.

    Args:
        results: of all cells.
        mode: which.

    Attributes:
        local: the local negative alone over its strengths; the first arm is positive-only.
        controls: the other arms.
    """

    def __init__(self, results: Results, mode: str) -> None:
        self.name = mode
        self.local = Runs(results[f"local-{mode}"]["result"])
        self.controls = Runs(results[f"controls-{mode}"]["result"])

    def arms(self) -> Iterator[tuple[str, Runs]]:
        """All arms by name, with where they are."""
        for runs in (self.local, self.controls):
            for name in runs.arms:
                yield name, runs

    def of(self, name: str) -> Runs:
        """Where an arm is."""
        return self.local if name in self.local.arms else self.controls

    def base(self, metric: str) -> list[float]:
        """Late numbers of positive-only training, seed by seed."""
        return self.local.late(metric, self.local.first)

    def gain(self, name: str, comparisons: int = 1) -> Interval:
        """Late reward against positive-only, paired by seed."""
        return paired_interval(self.of(name).late("reward", name), self.base("reward"), comparisons)

    def events(self, name: str) -> list[dict[str, int]]:
        """Events of an arm, seed by seed, by the share of the best reward and the entropy."""
        runs = self.of(name)
        references = [max(value, 1e-3) for value in self.base("share")]
        watch = Watch(references, warmup=runs.steps[-1] // 4, min_entropy=MIN_ENTROPY)
        shares, entropies = runs.evaluations("share", name), runs.evaluations("entropy", name)
        for step, share, entropy in zip(runs.steps, shares, entropies, strict=True):
            watch.update(step, reward=torch.tensor(share), entropy=torch.tensor(entropy))
        return watch.happened()
