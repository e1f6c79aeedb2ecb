"""Variants of a cross-fitted reward model, their members fitted side by side.

As :class:`~torchrl_drpo.rewards.RewardRegression` fits one (least squares on standardised rewards,
AdamW, early stopping on a tenth of its rows), but all members of one make in one loop, by ``vmap``
over stacked parameters: a third of the time on rows as few as these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from tests.benchmarks.reward_model.rows import all_pairs, smoothed_means, with_histories
from torchrl_drpo.policies.encoders import EncoderConfig
from torchrl_drpo.reproduction.randomised.learning import train_rows
from torchrl_drpo.reproduction.randomised.ratings import Ratings
from torchrl_drpo.reproduction.randomised.target import REWARD
from torchrl_drpo.rewards import assign_folds
from torchrl_drpo.rewards.towers import STATE, TwoTowerReward

#: Propensities below it are taken for it.
LEAST_PROPENSITY = 0.05
STEPS, CHECK_EVERY, PATIENCE, HELD_OUT = 4_000, 50, 5, 10
PAIRS_BATCH = 1_024


@dataclass(frozen=True)
class Variant:
    """A reward model.

    Attributes:
        what: the group of variants that it belongs to.
        folds: of the cross-fitting.
        dim: width of the towers.
        hidden: of the state's tower.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        repeats: cross-fits with seeds of their own, whose members are one ensemble.
        pessimism: c of Q - c sd over all members.
        encoder: reads the user's other ratings, in place of, or beside, the id.
        user: whether the id is read.
        less: what is taken from the rewards before the fit: smoothed means of items, which are
            added to the predictions afterwards, or of users, which no order depends on.
        propensities: rows weighed by them (``"ips"``), or all pairs of users and items learned
            from doubly robust targets (``"dr"``).
    """

    what: str
    folds: int = REWARD["folds"]
    dim: int = 32
    hidden: tuple[int, ...] = (64,)
    learning_rate: float = REWARD["learning_rate"]
    weight_decay: float = 1e-2
    repeats: int = 1
    pessimism: float = 0.0
    encoder: EncoderConfig | None = None
    user: bool = True
    less: Literal["", "item", "user"] = ""
    propensities: Literal["", "ips", "dr"] = ""

    @property
    def one(self) -> Variant:
        """What decides one cross-fit."""
        return replace(self, what="", repeats=1, pessimism=0.0)

    @property
    def make(self) -> tuple[Any, ...]:
        """What members that are fitted side by side have in common."""
        pairs = self.propensities == "dr"
        return pairs, self.dim, self.hidden, self.learning_rate, self.encoder, self.user


#: What the others are compared with, and doubly robust targets start from; it is asked for first.
REFERENCE = Variant("")


@dataclass(frozen=True)
class Predictions:
    """What the members of a model say.

    Attributes:
        every: of all items for each user who judges, ``[K, U, V]``.
        own: of each training row, by the members that have not seen it, ``[N]``.
    """

    every: Tensor
    own: Tensor

    def scores(self, pessimism: float) -> Tensor:
        """Q - c sd over members, ``[U, V]``."""
        mean = self.every.mean(0)
        return mean - pessimism * self.every.std(0) if pessimism else mean


@dataclass(frozen=True)
class _Task:
    """What one member learns: ``weight`` 0 marks rows that are not its own."""

    variant: Variant
    target: Tensor
    weight: Tensor
    seed: int


class Fits:
    """All members of some variants on one seed.

    Args:
        variants: what is asked for.
        ratings: the file's.
        user: who judges, ``[U]``.
        propensity: of each training row, ``[N]``; ``None`` where the file has none.
        seed: of the run.

    Raises:
        ValueError: for a variant that needs propensities without them.
    """

    def __init__(
        self,
        variants: Iterable[Variant],
        ratings: Ratings,
        user: Tensor,
        propensity: Tensor | None,
        seed: int,
    ) -> None:
        self._ratings, self._user, self._seed = ratings, user, seed
        self._propensity = propensity
        self._done: dict[tuple[Variant, int], tuple[Tensor, Tensor]] = {}
        self._on_pairs: Tensor | None = None  # what the reference's members say, ``[K, U V]``
        makes: dict[tuple[Any, ...], list[tuple[Variant, int]]] = defaultdict(list)
        for variant in variants:
            for repeat in range(variant.repeats):
                if (variant.one, repeat) not in makes[variant.make]:
                    makes[variant.make].append((variant.one, repeat))
        for make in sorted(makes, key=lambda make: make[0]):  # those on pairs follow another fit
            self._fit(makes[make])

    def of(self, variant: Variant) -> Predictions:
        """What a variant's members say."""
        parts = [self._done[variant.one, repeat] for repeat in range(variant.repeats)]
        own = torch.stack([part[1] for part in parts]).mean(0)
        return Predictions(torch.cat([part[0] for part in parts]), own)

    def _fit(self, fits: Sequence[tuple[Variant, int]]) -> None:
        """Cross-fits of one make."""
        variant, train = fits[0][0], self._ratings.train
        pairs = variant.propensities == "dr"
        every, rows = all_pairs(self._ratings, self._user), train_rows(self._ratings)
        if variant.encoder is not None:
            every, rows = (with_histories(each, train) for each in (every, rows))
        tasks = [task for fit in fits for task in self._tasks(*fit)]
        everybody = all_pairs(self._ratings, torch.arange(self._ratings.num_users))
        learned = everybody if pairs else rows
        predict = fit_members(
            lambda: _network(variant, self._ratings, rows["observation", "history"].shape[1]),
            learned,
            tasks,
            PAIRS_BATCH if pairs else REWARD["batch_size"],
        )
        of_every, of_rows = predict(every), predict(rows)
        if not pairs and (REFERENCE, 0) in fits:
            assert fits[0] == (REFERENCE, 0)
            self._on_pairs = predict(everybody)[: REFERENCE.folds]
        first = 0
        for mine, repeat in fits:
            members = slice(first, first := first + mine.folds)
            means = torch.stack([self._mean(mine, repeat, k) for k in range(mine.folds)])
            own = of_rows[members] + means[:, train.item]
            own = own.gather(0, self._fold(mine, repeat).unsqueeze(0)).squeeze(0)
            shape = mine.folds, len(self._user), self._ratings.num_items
            self._done[mine, repeat] = of_every[members].view(shape) + means[:, None], own

    def _stream(self, repeat: int) -> int:
        return 5 * self._seed + 10_000 * repeat  # the first is the reproduction's own

    def _fold(self, variant: Variant, repeat: int) -> Tensor:
        return assign_folds(len(self._ratings.train), variant.folds, seed=self._stream(repeat))

    def _mean(self, variant: Variant, repeat: int, k: int) -> Tensor:
        """The smoothed item means that a member's rewards were less, ``[V]``; else zeros."""
        if variant.less != "item":
            return torch.zeros(self._ratings.num_items)
        return smoothed_means(self._ratings, "item", self._fold(variant, repeat) != k)

    def _tasks(self, variant: Variant, repeat: int) -> Iterable[_Task]:
        train, fold = self._ratings.train, self._fold(variant, repeat)
        reward = train.quality
        if variant.propensities and self._propensity is None:
            raise ValueError(f"{variant.propensities} needs a column propensity")
        for k in range(variant.folds):
            mine = (fold != k).float()
            target = reward
            if variant.less:
                index = train.item if variant.less == "item" else train.user
                target = reward - smoothed_means(self._ratings, variant.less, fold != k)[index]
            if variant.propensities:
                assert self._propensity is not None
                inverse = 1 / self._propensity.clamp(min=LEAST_PROPENSITY)
            if variant.propensities == "ips":
                mine = mine * inverse
            if variant.propensities == "dr":
                assert self._on_pairs is not None
                plain = self._on_pairs[k]
                place = train.user * self._ratings.num_items + train.item
                target = plain.clone()
                target[place] += mine * inverse * (reward - plain[place])
                mine = torch.ones_like(target)
            yield _Task(variant, target, mine, self._stream(repeat))


# -- the loop -------------------------------------------------------------------------------------


def fit_members(
    network: Callable[[], nn.Module], rows: TensorDict, tasks: Sequence[_Task], batch: int
) -> Callable[[TensorDict], Tensor]:
    """Fits a member a task, all of them side by side.

    Returns:
        From rows ``[n]`` to each member's predictions, ``[K, n]``.
    """
    variant, number = tasks[0].variant, len(tasks)
    inputs = _inputs(rows, variant)
    networks, learned, held = [], [], []
    for task in tasks:
        with torch.random.fork_rng():
            torch.manual_seed(task.seed)
            networks.append(network())
        mine = task.weight.nonzero().squeeze(1)
        out = assign_folds(len(mine), HELD_OUT, seed=task.seed + 1) == 0
        learned.append(mine[~out])
        held.append(mine[out])
    shortest = min(map(len, held))
    held_rows = torch.stack([mine[:shortest] for mine in held])
    target = torch.stack([task.target for task in tasks])
    weight = torch.stack([task.weight for task in tasks])
    moments = [(target[k][learned[k]].mean(), target[k][learned[k]].std()) for k in range(number)]
    mean, std = (torch.stack(each)[:, None] for each in zip(*moments, strict=True))
    weight = weight / torch.stack([weight[k][learned[k]].mean() for k in range(number)])[:, None]
    parameters, buffers = stack_module_state(networks)  # type: ignore[arg-type]
    empty = network().to("meta")

    def all_of(state: Mapping[str, Tensor], asked: Mapping[str, Tensor], training: bool) -> Tensor:
        def one(own: Any, fixed: Any, given: Any) -> Tensor:
            return functional_call(empty.train(training), (own, fixed), kwargs=given)

        return vmap(one, randomness="different")(state, buffers, dict(asked))

    def error(asked: Tensor, training: bool) -> Tensor:
        given = {name: entry[asked] for name, entry in inputs.items()}
        wanted = (target.gather(1, asked) - mean) / std
        off = all_of(parameters, given, training) - wanted
        return (weight.gather(1, asked) * off.square()).mean(1)

    learning_rate = variant.learning_rate
    optimizer = torch.optim.Adam(list(parameters.values()), lr=learning_rate)
    decay = torch.tensor([1 - learning_rate * task.variant.weight_decay for task in tasks])
    generator = torch.Generator().manual_seed(tasks[0].seed)
    least, since = torch.full((number,), torch.inf), torch.zeros(number)
    best = {name: entry.detach().clone() for name, entry in parameters.items()}
    for step in range(1, STEPS + 1):
        drawn = [own[torch.randint(len(own), (batch,), generator=generator)] for own in learned]
        optimizer.zero_grad(set_to_none=True)
        error(torch.stack(drawn), training=True).sum().backward()
        with torch.no_grad():
            for entry in parameters.values():
                entry.mul_(decay.view(-1, *[1] * (entry.ndim - 1)))
        optimizer.step()
        if step % CHECK_EVERY:
            continue
        with torch.no_grad():
            found = error(held_rows, training=False)
        better = (found < least) & (since < PATIENCE)
        since = torch.where(better, 0, since + 1)
        least = torch.where(better, found, least)
        for name, entry in parameters.items():
            best[name][better] = entry.detach()[better]
        if bool((since >= PATIENCE).all()):
            break

    @torch.no_grad()
    def predict(asked: TensorDict) -> Tensor:
        parts = []
        for block in asked.split(8_192):
            given = {
                name: entry.expand(number, *entry.shape)
                for name, entry in _inputs(block, variant).items()
            }
            parts.append(mean + std * all_of(best, given, training=False))
        return torch.cat(parts, 1)

    return predict


def _inputs(rows: TensorDict, variant: Variant) -> dict[str, Tensor]:
    read: dict[str, Any] = {"action": "action", "history": STATE["history"]}
    if variant.user:
        read["context"] = STATE["context"]
    if variant.encoder is not None and variant.encoder.feedback:
        read["feedback"] = STATE["feedback"]
    return {name: rows[key] for name, key in read.items()}


def _network(variant: Variant, ratings: Ratings, history: int) -> nn.Module:
    sizes = (ratings.num_users,) if variant.user else ()
    module = TwoTowerReward(
        ratings.num_items,
        dim=variant.dim,
        history=history,
        context_sizes=sizes,
        hidden=variant.hidden,
        encoder=variant.encoder,
    )
    if variant.encoder is not None and variant.encoder.feedback:
        quality = ratings.train.quality
        module.encoder.feedback_scaler.fit_(quality.mean()[None], quality.std()[None])
    return module
