"""A search over settings: optuna asks and is told, and its journal lies in the output folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torchrl_drpo.pipeline.config.space import Dimension

#: Trials of a generation, where two metrics are searched by NSGA-II (Deb et al. 2002).
GENERATION = 10


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        number: in the order of trials.
        values: by dimension.
        metrics: what was found, in the metrics' order; empty where it was no number.
        steps: after how many steps.
        few: where a lift counted less than one hit of a worst row as one: the hits, and the rows.
    """

    number: int
    values: dict[str, Any]
    metrics: tuple[float, ...]
    steps: int
    few: tuple[float, int] | None = None


class Carried(NamedTuple):
    """What a trial found; see :class:`Trial`."""

    metrics: tuple[float, ...]
    steps: int
    few: tuple[float, int] | None = None


#: Carries out a trial: values by dimension to what was found. A ``ValueError`` ends the search; no
#: metrics mean that they were no finite numbers.
Carry = Callable[[dict[str, Any]], Carried]


def search(
    carry: Carry,
    space: Sequence[Dimension],
    *,
    journal: Path,
    name: str,
    metrics: int,
    trials: int,
    seed: int,
    first: Mapping[str, Any],
) -> Iterator[Trial]:
    """Trials, those that an earlier call with the same journal and name has finished first.

    Every trial draws with a seed of its own, of how many were finished before: a search that was
    killed goes on as it would have gone on.

    Args:
        carry: see :data:`Carry`.
        space: what is searched.
        journal: file of all trials.
        name: of this search in it.
        metrics: how many, all to be largest: one is searched by TPE, two by NSGA-II.
        trials: how many in all.
        seed: of the search.
        first: values of the first trial, as far as they are known.

    Raises:
        ModuleNotFoundError: without optuna.
    """
    optuna = load_optuna()
    journal.parent.mkdir(parents=True, exist_ok=True)
    with _calm(optuna):
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        study = optuna.create_study(
            study_name=name,
            storage=optuna.storages.JournalStorage(backend),
            directions=["maximize"] * metrics,
            load_if_exists=True,
        )
        states = optuna.trial.TrialState
        for left in study.get_trials(states=(states.RUNNING,)):  # when it was killed
            study.tell(left.number, state=states.FAIL)
        ended = (states.COMPLETE, states.PRUNED)
        finished = study.get_trials(states=ended)
        for place, trial in enumerate(finished[:trials]):
            yield _trial(trial, place)
        distributions = {each.name: _distribution(optuna, each) for each in space}
        for place in range(len(finished), trials):
            if place == 0 and not study.get_trials(states=(states.WAITING,)):
                study.enqueue_trial(dict(first))
            study.sampler = _sampler(optuna, metrics, seed + place)
            asked = study.ask(distributions)
            found, steps, few = carry(dict(asked.params))
            asked.set_user_attr("steps", steps)
            if few is not None:
                asked.set_user_attr("few", list(few))
            if found:
                study.tell(asked, list(found))
            else:
                study.tell(asked, state=states.PRUNED)
            yield Trial(place, dict(asked.params), found, steps, few)


def load_optuna() -> Any:
    """The package.

    Raises:
        ModuleNotFoundError: where it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ModuleNotFoundError(
            "drpo tune searches with optuna: pip install 'torchrl-drpo[tune]'", name="optuna"
        ) from None
    import optuna.storages.journal

    return optuna


@contextmanager
def _calm(optuna: Any) -> Iterator[None]:
    """Without a line for every trial, which the table says."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _sampler(optuna: Any, metrics: int, seed: int) -> Any:
    if metrics == 1:
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.NSGAIISampler(population_size=GENERATION, seed=seed)


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    kinds = optuna.distributions
    if dimension.choices:
        return kinds.CategoricalDistribution(dimension.choices)
    if dimension.whole:
        low, high = int(dimension.low), int(dimension.high)
        return kinds.IntDistribution(low, high, log=dimension.log)
    return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _trial(trial: Any, place: int) -> Trial:
    found = tuple(trial.values or ())
    few = trial.user_attrs.get("few")
    steps = trial.user_attrs["steps"]
    return Trial(place, dict(trial.params), found, steps, None if few is None else tuple(few))


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other one beats in some metric and equals in the rest, in their order.

    Example:
        >>> found = [Trial(n, {}, m, 0) for n, m in enumerate([(1, 1), (2, 0), (1, 0), (0, 2)])]
        >>> [trial.number for trial in frontier(found)]
        [0, 1, 3]
    """
    there = [trial for trial in trials if trial.metrics]
    return [trial for trial in there if not any(_beats(other, trial) for other in there)]


def chosen(trials: Sequence[Trial], keep: float) -> Trial:
    """The best trial; of two metrics, most of the second with ``keep`` of the largest first.

    Args:
        trials: of which one at least found numbers.
        keep: a share, in (0, 1].

    Example:
        >>> found = [Trial(n, {}, m, 0) for n, m in enumerate([(10, 1), (9.9, 2), (8, 3)])]
        >>> chosen(found, keep=0.98).number, chosen(found, keep=0.5).number
        (1, 2)
    """
    there = [trial for trial in trials if trial.metrics]
    most = max(trial.metrics[0] for trial in there)
    good = [trial for trial in there if trial.metrics[0] >= min(keep * most, most)]
    return max(good, key=lambda trial: (trial.metrics[-1], trial.metrics[0], -trial.number))


def _beats(one: Trial, other: Trial) -> bool:
    pairs = list(zip(one.metrics, other.metrics, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
