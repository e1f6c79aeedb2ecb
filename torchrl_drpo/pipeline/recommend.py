"""``drpo recommend``: raw user ids to lists of raw item ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.users import RawId
from torchrl_drpo.pipeline.config.serve import RecommendConfig
from torchrl_drpo.pipeline.kinds.served import turned
from torchrl_drpo.pipeline.serving.lists import Sampling, Search
from torchrl_drpo.pipeline.serving.recommender import (
    DrawnRecommendation,
    Recommendation,
    RecommendedList,
    Recommender,
    Request,
)
from torchrl_drpo.pipeline.serving.service import serve_standard_input
from torchrl_drpo.pipeline.serving.tables import first_column
from torchrl_drpo.pipeline.serving.user_files import write_lists
from torchrl_drpo.pipeline.terminal import note, print_json, progress_bars, say, show
from torchrl_drpo.report.tables import Table

__all__ = ["DrawnRecommendation", "Recommendation", "command", "recommend", "run_recommend"]


def command(config: RecommendConfig) -> None:
    """``drpo recommend``."""
    recommender = _recommender(config)
    if config.serve:
        serve_standard_input(recommender, _request(config))
    elif config.users is not None:
        assert config.output is not None  # the settings say so
        with progress_bars() as progress:
            done = write_lists(recommender, _request(config), config.users, config.output, progress)
        if config.json:
            print_json(done | _searched(recommender))
        else:
            say(f"{config.output}: {done['places']:,} places for {done['users']:,} users")
    else:
        _show(config, recommender.recommend(_request(config)), recommender)


def run_recommend(config: RecommendConfig) -> RecommendedList:
    """The list for ``config.user``, best first."""
    return _recommender(config).recommend(_request(config))


def recommend(
    checkpoint: PolicyCheckpoint,
    user: RawId | None = None,
    *,
    k: int = 10,
    history: Sequence[RawId] | None = None,
    context: Sequence[RawId | None] | None = None,
    features: Sequence[float] | None = None,
    exclude: Sequence[RawId] = (),
    allow: Sequence[RawId] | None = None,
    exclude_seen: bool = True,
    cold_start: bool = False,
    sampling: Sampling | None = None,
    search: Search = "exact",
) -> RecommendedList:
    """The ``k`` items that the policy prefers for a user now, or draws.

    For many lists make a :class:`~torchrl_drpo.pipeline.serving.recommender.Recommender`: its item
    index is made once.

    Args:
        checkpoint: the policy, with the users' latest histories, contexts and features.
        user: raw user id; ``None`` for somebody of whom nothing is known.
        k: how many items, at least 1; fewer come back only where the catalogue runs out.
        history: raw item ids, oldest first, instead of what the log knows of the user (a user
            who came after the log has one; ``user`` may then be ``None``).
        context: raw values of the context columns, in the schema's order, instead of the latest
            ones that the log knows of the user; a value that the log does not hold counts as
            unknown, and so does ``None``.
        features: raw numbers, in the schema's order and units, instead of the latest ones that
            the log knows of the user.
        exclude: raw ids of items that must not come back; those of no item say nothing.
        allow: raw ids of the only items that may come back.
        exclude_seen: leave out the items of the user's whole history.
        cold_start: take an empty history for a user whom the log does not know.
        sampling: draw the list, and say how likely each place was.
        search: of the item vectors; see :class:`Recommender`.

    Returns:
        The list, best first, or in the order in which it was drawn.

    Raises:
        ValueError: if ``k`` is below 1, the user is unknown, ``history`` names an item that is not
            in the catalogue, ``allow`` names none that is, ``context`` or ``features`` are of
            another number than the log's columns, or a feature is not finite.
    """
    request = Request(
        user=user,
        k=k,
        history=history,
        context=context,
        features=features,
        exclude=exclude,
        allow=allow,
        exclude_seen=exclude_seen,
        cold_start=cold_start,
        sampling=sampling,
    )
    return Recommender(checkpoint, search=search, k=k).recommend(request)


def _recommender(config: RecommendConfig) -> Recommender:
    checkpoint = turned(
        PolicyCheckpoint.load(config.checkpoint, allow_code=config.allow_code),
        tau=config.tau,
        guidance=config.guidance,
        uphill_step=config.uphill_step,
    )
    allow = None
    if config.allow is not None:
        allow = first_column(config.allow, ("item", "id"))
        known = int((checkpoint.items.find_all(allow) >= 0).sum())
        if known < len(allow):
            note(f"{config.allow}: {len(allow) - known:,} of {len(allow):,} items are not known")
    recommender = Recommender(checkpoint, search=config.index, allow=allow, k=config.k)
    if recommender.recall is not None and not config.json:
        k, value, queries = recommender.recall
        note(f"{config.index}: recall@{k} {value:.4f} against the exact search, {queries} users")
    return recommender


def _request(config: RecommendConfig) -> Request:
    sampling = None
    if config.sample:
        generator = torch.Generator()
        if config.seed is None:
            generator.seed()  # torch's own begins alike in every process
        else:
            generator.manual_seed(config.seed)
        sampling = Sampling(config.temperature, config.top_p, generator)
    return Request(
        user=config.user,
        k=config.k,
        history=config.history or None,
        context=config.context or None,
        features=config.features or None,
        exclude=config.exclude,
        exclude_seen=config.exclude_seen,
        cold_start=config.cold_start,
        sampling=sampling,
    )


def _show(config: RecommendConfig, found: RecommendedList, recommender: Recommender) -> None:
    if config.json:
        items = [place._asdict() for place in found]
        print_json({"user": config.user, "recommendations": items} | _searched(recommender))
        return
    titles = ["rank", "item", "score"] + (["propensity"] if config.sample else [])
    rows = [[str(rank), str(p.item), f"{p.score:.3f}"] for rank, p in enumerate(found, start=1)]
    if config.sample:
        rows = [[*row, f"{p[2]:.4g}"] for row, p in zip(rows, found, strict=True)]
    whom = "somebody new" if config.user is None else f"user {config.user}"
    show(Table(f"For {whom}", titles, rows))


def _searched(recommender: Recommender) -> dict[str, Any]:
    recall = recommender.recall
    return {} if recall is None else {"recall": recall._asdict()}
