"""Schemas of published logs, as the JSON data that a schema file holds.

``LogSchema.preset(name)`` reads them; nothing here imports it.
"""

from __future__ import annotations

from typing import Any

#: KuaiRand-Pure's standard log (Gao et al., CIKM 2022): short videos, twelve feedback signals.
#: Quality is OneRec-V2's duration-aware percentile within the duration bucket alone, since the
#: log has nine rows a user. Its video table holds counts over the whole month, so the table gives
#: the catalogue but none of its columns is a feature of the observation.
KUAIRAND: dict[str, Any] = {
    "user": "user_id",
    "item": "video_id",
    "time": "time_ms",
    "time_unit": "ms",
    "utc_offset_hours": 8,
    "date": "date",
    "quality": {
        "kind": "percentile",
        "value": "play_time_ms",
        "by": ["duration_bucket"],
        "duration": "duration_ms / 1000",
    },
    "context": ["tab"],
    "labels": ["is_click", "long_view", "is_like", "is_hate", "play_time_ms", "duration_ms"],
    "items": {
        "path": "video_features.parquet",
        "id": "video_id",
        "features": [
            "counts", "show_cnt", "play_cnt", "like_cnt", "comment_cnt", "follow_cnt",
        ],
        "features_until": "2022-05-08",
        "required": False,
    },
    "initial_history": {
        "path": "user_watch_history_to_20220424.parquet",
        "user": "user_id",
        "items": "watch_seq",
        "required": False,
    },
}  # fmt: skip

#: Open Bandit (Saito et al., NeurIPS 2021): one-step bandit log with true propensities.
OPEN_BANDIT: dict[str, Any] = {
    "item": "item_id",
    "time": "timestamp",
    "position": "position",
    "propensity": "propensity_score",
    "context": [f"user_feature_{i}" for i in range(4)],
    "quality": {"kind": "formula", "formula": "click"},
    "duplicates": "keep",
}

#: MovieLens latest-small ratings.csv (Harper and Konstan, 2015). A rating is worth what it is
#: among the same user's ratings: people use the scale differently.
MOVIELENS: dict[str, Any] = {
    "user": "userId",
    "item": "movieId",
    "time": "timestamp",
    "quality": {"kind": "percentile", "value": "rating", "by": ["user"]},
    "labels": ["rating"],
    "items": {"path": "movies.csv", "id": "movieId", "required": False},
}

#: MiniOneRec's Amazon splits: every row brings its own history; the next item is always positive.
AMAZON_SID: dict[str, Any] = {
    "user": "user_id",
    "item": "item_id",
    "history": "history_item_id",
    "split": "split",
    "quality": {"kind": "formula", "formula": "1"},
    "duplicates": "keep",
}

PRESETS: dict[str, dict[str, Any]] = {
    "kuairand": KUAIRAND,
    "open-bandit": OPEN_BANDIT,
    "movielens": MOVIELENS,
    "amazon-sid": AMAZON_SID,
}
