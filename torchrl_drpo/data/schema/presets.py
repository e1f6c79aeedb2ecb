"""Schemas of published logs."""

from __future__ import annotations

from .quality import DURATION_BUCKET, Percentile, RewardFormula
from .schema import InitialHistory, ItemTable, LogSchema

#: KuaiRand-Pure's standard log (Gao et al., CIKM 2022): short videos, twelve feedback signals.
#: Quality is OneRec-V2's duration-aware percentile within the duration bucket alone, since the
#: log has nine rows a user. Its video table holds counts over the whole month, so the table gives
#: the catalogue but none of its columns is a feature of the observation.
KUAIRAND = LogSchema(
    user="user_id",
    item="video_id",
    time="time_ms",
    time_unit="ms",
    utc_offset_hours=8,
    date="date",
    quality=Percentile("play_time_ms", by=(DURATION_BUCKET,), duration="duration_ms / 1000"),
    context=("tab",),
    labels=("is_click", "long_view", "is_like", "is_hate", "play_time_ms", "duration_ms"),
    items=ItemTable(
        path="video_features.parquet",
        id="video_id",
        features=("counts", "show_cnt", "play_cnt", "like_cnt", "comment_cnt", "follow_cnt"),
        features_until="2022-05-08",
        required=False,
    ),
    initial_history=InitialHistory(
        path="user_watch_history_to_20220424.parquet",
        user="user_id",
        items="watch_seq",
        required=False,
    ),
)

#: Open Bandit (Saito et al., NeurIPS 2021): one-step bandit log with true propensities.
OPEN_BANDIT = LogSchema(
    item="item_id",
    time="timestamp",
    position="position",
    propensity="propensity_score",
    context=tuple(f"user_feature_{i}" for i in range(4)),
    quality=RewardFormula("click"),
    duplicates="keep",
)

#: MovieLens latest-small ratings.csv (Harper and Konstan, 2015). A rating is worth what it is
#: among the same user's ratings: people use the scale differently.
MOVIELENS = LogSchema(
    user="userId",
    item="movieId",
    time="timestamp",
    quality=Percentile("rating", by=("user",)),
    labels=("rating",),
    items=ItemTable(path="movies.csv", id="movieId", required=False),
)

#: MiniOneRec's Amazon splits: every row brings its own history; the next item is always positive.
AMAZON_SID = LogSchema(
    user="user_id",
    item="item_id",
    history="history_item_id",
    split="split",
    quality=RewardFormula("1"),
    duplicates="keep",
)

PRESETS: dict[str, LogSchema] = {
    "kuairand": KUAIRAND,
    "open-bandit": OPEN_BANDIT,
    "movielens": MOVIELENS,
    "amazon-sid": AMAZON_SID,
}
