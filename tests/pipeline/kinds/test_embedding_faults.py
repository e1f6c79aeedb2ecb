"""``drpo train --policy embedding`` on logs and folders that are not as one would wish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo.data import ItemTable, LogSchema, Percentile
from torchrl_drpo.pipeline import finished
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import EmbeddingOptions, KindOptions, ModelConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.kinds.embedding import EmbeddingTraining
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies.retrieval import retrieval_policy

pytestmark = pytest.mark.usefixtures("one_thread")

ITEMS, USERS, ROWS, DAYS, KINDS = 12, 20, 900, 14, 3
SCHEMA = LogSchema(user="user", item="item", time="time", quality="q", context=("tab",))
WITHOUT_USERS = SCHEMA.replace(user=None, duplicates="keep")


def make_log(users: int = USERS) -> pd.DataFrame:
    """Quality is high where item, user and tab are of one kind; users see more of their own."""
    g = np.random.default_rng(0)
    user, tab = g.integers(0, users, ROWS), g.integers(0, KINDS, ROWS)
    own = KINDS * g.integers(0, ITEMS // KINDS, ROWS) + user % KINDS
    item = np.where(g.random(ROWS) < 0.6, own, g.integers(0, ITEMS, ROWS))
    alike = 0.4 * (item % KINDS == user % KINDS) + 0.4 * (item % KINDS == tab)
    time = np.sort(g.integers(0, DAYS * 86_400, ROWS))
    quality = alike + g.uniform(0, 0.2, ROWS)
    return pd.DataFrame({"user": user, "item": 7 * item, "time": time, "q": quality, "tab": tab})


def make_table() -> pd.DataFrame:
    g = np.random.default_rng(1)
    vectors = np.eye(KINDS)[np.arange(ITEMS) % KINDS] + 0.1 * g.normal(size=(ITEMS, KINDS))
    return pd.DataFrame({"item": 7 * np.arange(ITEMS), "vec": list(vectors.astype(np.float32))})


def settings_for(
    folder: Path,
    log: pd.DataFrame,
    table: pd.DataFrame | None = None,
    schema: LogSchema = SCHEMA,
    **changes: Any,
) -> TrainConfig:
    log.to_parquet(folder / "log.parquet")
    if table is not None:
        table.to_parquet(folder / "items.parquet")
        items = ItemTable(path="items.parquet", id="item", embedding="vec")
        schema = schema.replace(items=items)
    (folder / "schema.json").write_text(schema.to_json())
    base = TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / "schema.json",
        output=folder / "run",
        policy="embedding",
        objectives=("positive-only",),
        history=4,
        steps=20,
        batch_size=64,
        ks=(3,),
        model=ModelConfig(dim=4, hidden=(8,)),
        kinds=KindOptions(embedding=EmbeddingOptions(landmarks=16)),
    )
    return replace(base, **changes)


def metrics_of(settings: TrainConfig, log: Path | None = None) -> dict[str, float]:
    objective = settings.objectives[0]
    logs = settings.logs if log is None else str(log)
    config = EvaluateConfig(settings.output / objective, logs, ks=settings.ks)
    return run_evaluate(config).metrics[objective]


def same(metrics: dict[str, float]) -> Any:
    """Equal to these numbers, bit for bit; what is not a number equals itself."""
    return pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def test_a_log_without_users_is_evaluated_and_recommended_from(tmp_path: Path) -> None:
    log = make_log().drop(columns="user")
    settings = settings_for(tmp_path, log, make_table(), WITHOUT_USERS, objectives=("uphill",))
    results = run_train(settings)
    assert metrics_of(settings) == pytest.approx(results.runs["uphill"][0], nan_ok=True)
    checkpoint = PolicyCheckpoint.load(settings.output / "uphill")
    assert checkpoint.window == 0
    assert len(recommend(checkpoint, k=5, cold_start=True)) == 5


def test_a_run_that_was_killed_over_another_kind_s_folder_is_no_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of one kind must not be served under the numbers of the other."""
    other = settings_for(tmp_path, make_log(), objectives=("bc",))
    settings = replace(other, policy="catalogue", kinds=KindOptions())
    first = run_train(settings)

    def killed(path: Path, data: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # The policy is written, its run is not.
        patch.setattr(finished, "write_sealed_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run_train(other)
    assert PolicyCheckpoint.load(settings.output / "bc").policy == "embedding"
    assert run_train(settings).runs["bc"][0] == same(first.runs["bc"][0])
    assert PolicyCheckpoint.load(settings.output / "bc").policy == "catalogue"
    assert metrics_of(settings) == pytest.approx(first.runs["bc"][0], nan_ok=True)


def test_kinds_that_share_a_folder_are_never_taken_for_each_other(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, make_log(), objectives=("bc",), seeds=2)
    alone = run_train(replace(settings, output=tmp_path / "alone")).runs["bc"]
    run_train(replace(settings, policy="catalogue", kinds=KindOptions()))
    mixed = run_train(settings).runs["bc"]
    assert len(mixed) == len(alone) == 2
    assert all(found == same(expected) for found, expected in zip(mixed, alone, strict=True))
    assert PolicyCheckpoint.load(settings.output / "bc").policy == "embedding"


def test_other_vectors_with_the_same_log_are_other_runs(tmp_path: Path) -> None:
    table = make_table()
    settings = settings_for(tmp_path, make_log(), table)
    first = run_train(settings)
    again = table.assign(vec=[vector[::-1].copy() for vector in table["vec"]])
    again.loc[0, "vec"][:] = [1.0, 2.0, 3.0]
    again.to_parquet(tmp_path / "items.parquet")
    assert run_train(settings).runs["positive-only"] != first.runs["positive-only"]
    policy = retrieval_policy(PolicyCheckpoint.load(settings.output / "positive-only").actor)
    expected = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 3.0]), dim=0)
    torch.testing.assert_close(policy.items[0], expected)


@pytest.mark.parametrize("objective", ["uphill", "positive-only"])
def test_a_constant_quality_is_refused_before_anything_is_fitted(
    tmp_path: Path, objective: str
) -> None:
    settings = settings_for(tmp_path, make_log().assign(q=0.5), objectives=(objective,))
    with pytest.raises(
        ValueError, match=r"training rows have quality 0.5, and .* declare a quality that"
    ):
        run_train(settings)
    assert not (settings.output / "reward-embedding").exists()


def test_a_vector_that_is_not_finite_stops_the_command(tmp_path: Path) -> None:
    table = make_table()
    table.loc[3, "vec"][1] = np.nan
    with pytest.raises(ValueError, match=r"vector of item 21 \(item table\) must be finite"):
        run_train(settings_for(tmp_path, make_log(), table))


def test_a_later_log_of_other_items_and_contexts_is_evaluated(tmp_path: Path) -> None:
    longer = {"objectives": ("uphill",), "steps": 150, "learning_rate": 1e-2}
    settings = settings_for(tmp_path, make_log(), make_table(), **longer)
    run_train(settings)
    later = make_log().assign(time=lambda rows: rows["time"] + 20 * 86_400)
    strange = np.arange(ROWS) % 5 == 0
    later.loc[strange, "item"] += 1000
    later.loc[np.arange(ROWS) % 4 == 0, "tab"] = 77
    (tmp_path / "later").mkdir()
    later.to_parquet(tmp_path / "later" / "log.parquet")
    path = tmp_path / "later" / "log.parquet"
    without = metrics_of(settings, path)  # the policy has its vectors, so no item table is needed
    assert without["gauc_quality"] > 0.6
    make_table().to_parquet(tmp_path / "later" / "items.parquet")
    assert metrics_of(settings, path) == same(without)


def test_a_percentile_of_a_constant_is_a_constant(tmp_path: Path) -> None:
    schema = SCHEMA.replace(quality=Percentile("q"))
    settings = settings_for(
        tmp_path, make_log().assign(q=2.0), schema=schema, objectives=("uphill",)
    )
    with pytest.raises(
        ValueError, match=r"training rows have quality 0.5, and .* declare a quality that"
    ):
        run_train(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5_000}, "batch_size is 5000 but the log has 7.. training rows"),
        ({"device": "cuda:99"}, r"device 'cuda:99' cannot be used here \(.+\); try 'cpu'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        (
            {"kinds": KindOptions(embedding=EmbeddingOptions(folds=21))},
            "21 folds need as many users, but the training rows have 20; ask for fewer folds, or",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_model_is_fitted(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = settings_for(tmp_path, make_log(), objectives=("uphill",), **changes)
    with pytest.raises(ValueError, match=message):
        run_train(settings)
    assert not (settings.output / "reward-embedding").exists()


@pytest.mark.parametrize("rate", [np.nan, np.inf, 0.0])
def test_a_learning_rate_is_a_number_above_zero(tmp_path: Path, rate: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate must be a finite .* above 0, got {rate}"):
        settings_for(tmp_path, make_log(), learning_rate=rate)


def test_policies_share_one_table_that_training_leaves_as_it_is(tmp_path: Path) -> None:
    table = make_table()
    settings = settings_for(tmp_path, make_log(), table)
    data = SplitLog.open(settings, settings.output / "log")
    training = EmbeddingTraining(data, settings, lambda *_: None)
    trained = [
        retrieval_policy(
            training.train("positive-only", seed, tmp_path / str(seed), lambda *_: None).actor
        )
        for seed in (0, 1)
    ]
    for policy in trained:
        assert policy.items.data_ptr() == training.template.items.data_ptr()
    expected = torch.from_numpy(np.stack(list(table["vec"])))
    torch.testing.assert_close(
        trained[0].items, torch.nn.functional.normalize(expected, dim=-1), rtol=1e-6, atol=1e-6
    )
    weights = [next(policy.head.parameters()) for policy in trained]
    assert not torch.equal(*weights)
