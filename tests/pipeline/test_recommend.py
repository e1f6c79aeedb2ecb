from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from torchrl_drpo import LogSchema, cli
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.checkpoint import KIND, VERSION, PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.folder import Artifact, ArtifactError, save_artifact
from torchrl_drpo.pipeline.artifacts.index import ItemIndex
from torchrl_drpo.pipeline.artifacts.users import UserHistories
from torchrl_drpo.pipeline.config.serve import RecommendConfig
from torchrl_drpo.pipeline.recommend import recommend, run_recommend
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor

V = 12
FEATURES = torch.tensor([[150.0, 3.0], [-40.0, 5.0], [100.0, 4.5]])
MEAN, STD = torch.tensor([100.0, 4.0]), torch.tensor([50.0, 0.5])


def checkpoint(**changes) -> PolicyCheckpoint:
    """Items 100..111; user 7 saw 100 101 102 103, user 9 nothing, user 8 saw 105."""
    model = {"num_items": V, "dim": 6, "history": 3, "context_sizes": (2,), "temperature": 0.5}
    model |= changes
    actor = make_catalogue_actor(**model)
    policy = catalogue_policy(actor)
    if policy.bias is not None:
        torch.nn.init.normal_(policy.bias)
    if model.get("num_features"):
        policy.encoder.scaler.fit_(MEAN, STD)
    users = UserHistories(
        ids=Catalogue([7, 9, 8]),
        items=torch.tensor([0, 1, 2, 3, 5]),
        offsets=torch.tensor([0, 4, 4, 5]),
        context=torch.tensor([[0, 1], [1, 0], [-1, -1]])[:, : len(model["context_sizes"])],
        features=FEATURES[:, : model.get("num_features", 0)],
    )
    items = Catalogue(list(range(100, 100 + V)))
    contexts = [Catalogue([4, 6]), Catalogue(["app", "web"])][: len(model["context_sizes"])]
    return PolicyCheckpoint(
        actor.eval(), model, items, users, contexts, facts={"objective": "drpo"}
    )


def by_hand(
    model: PolicyCheckpoint,
    history: list[int],
    context: list[int],
    features: torch.Tensor | None = None,
) -> torch.Tensor:
    policy = catalogue_policy(model.actor)
    with torch.no_grad():
        hidden = policy(
            torch.tensor([history]),
            torch.tensor([context]) if context else None,
            None if features is None else features.unsqueeze(0),
        )
        return policy.distribution(hidden).logits[0]


@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"context_sizes": ()}])
def test_a_list_is_the_policy_s_ranking_without_what_was_seen(changes: dict) -> None:
    model = checkpoint(**changes)
    logits = by_hand(model, [1, 2, 3], [0] if model.model["context_sizes"] else [])
    expected = [100 + i for i in logits.argsort(descending=True).tolist() if i > 3]
    got = recommend(model, 7, k=20)
    assert [place.item for place in got] == expected
    gaps = torch.tensor([place.score for place in got]).diff()
    torch.testing.assert_close(gaps, logits[torch.tensor(expected) - 100].diff())


def test_seen_items_can_stay() -> None:
    model = checkpoint()
    logits = by_hand(model, [1, 2, 3], [0])
    got = recommend(model, 7, k=V, exclude_seen=False)
    assert [place.item - 100 for place in got] == logits.argsort(descending=True).tolist()


def test_command_lines_spell_integer_ids_as_text() -> None:
    model = checkpoint()
    assert recommend(model, "7", k=3) == recommend(model, 7, k=3)


def test_a_user_without_a_history_gets_the_empty_one() -> None:
    model = checkpoint()
    logits = by_hand(model, [-1, -1, -1], [1])
    assert recommend(model, 9, k=1)[0].item == 100 + int(logits.argmax())


@pytest.mark.parametrize("user", [404, "nobody"])
def test_an_unknown_user_is_an_error_or_a_cold_start(user: int | str) -> None:
    model = checkpoint()
    with pytest.raises(ValueError, match=rf"user '?{user}'? is not .* 3 users.*--cold-start"):
        recommend(model, user)
    cold = recommend(model, user, k=V, cold_start=True)
    logits = by_hand(model, [-1, -1, -1], [-1])
    assert [place.item - 100 for place in cold] == logits.argsort(descending=True).tolist()


@pytest.mark.parametrize("sizes", [(), (2,)])
def test_features_are_the_user_s_latest_or_the_usual_ones(sizes: tuple[int, ...]) -> None:
    model = checkpoint(num_features=2, context_sizes=sizes)
    asked = [  # a user of the log, one with a history of the caller's, one that nobody knows
        ({"user": 7}, [1, 2, 3], [0], FEATURES[0]),
        ({"user": 8, "history": [110, 104]}, [-1, 10, 4], [-1], FEATURES[2]),
        ({"user": 404, "cold_start": True}, [-1, -1, -1], [-1], MEAN),
        ({"history": [110, 104]}, [-1, 10, 4], [-1], MEAN),
    ]
    for options, history, context, features in asked:
        logits = by_hand(model, history, context if sizes else [], features)
        got = recommend(model, k=V, exclude_seen=False, **options)
        assert [place.item - 100 for place in got] == logits.argsort(descending=True).tolist()


def test_a_history_may_come_from_the_caller() -> None:
    model = checkpoint()
    logits = by_hand(model, [-1, 10, 4], [-1])
    expected = [100 + i for i in logits.argsort(descending=True).tolist() if i not in (10, 4)]
    assert [p.item for p in recommend(model, history=["110", 104], k=V)] == expected
    with pytest.raises(ValueError, match=r"history names 5, .* catalogue of 12 items \(1 of 2"):
        recommend(model, history=[101, 5])
    with pytest.raises(ValueError, match="k must be at least 1"):
        recommend(model, 7, k=0)


@pytest.mark.parametrize(
    ("now", "context", "features"),
    [
        ({"context": [6]}, [1], FEATURES[0]),
        ({"context": ["6"]}, [1], FEATURES[0]),  # as command lines spell it
        ({"context": [5]}, [-1], FEATURES[0]),  # nothing that the log knows
        ({"features": [120, -2.5]}, [0], torch.tensor([120.0, -2.5])),
        ({"context": [6], "features": (0.0, 4.0)}, [1], torch.tensor([0.0, 4.0])),
    ],
)
def test_a_situation_of_the_caller_s_stands_before_the_log_s(
    now: dict, context: list[int], features: torch.Tensor
) -> None:
    model = checkpoint(num_features=2)
    for asked, history in (({"user": 7}, [1, 2, 3]), ({"user": 7, "history": [105]}, [-1, -1, 5])):
        logits = by_hand(model, history, context, features)
        got = recommend(model, k=V, exclude_seen=False, **asked, **now)
        assert [place.item - 100 for place in got] == logits.argsort(descending=True).tolist()


def test_a_user_who_came_after_the_log_has_a_situation() -> None:
    model = checkpoint(num_features=2, context_sizes=(2, 2))
    now = {"context": [6, "web"], "features": [150.0, 3.0]}
    logits = by_hand(model, [-1, 10, 4], [1, 1], FEATURES[0])
    got = recommend(model, history=[110, 104], k=V, exclude_seen=False, **now)
    assert [place.item - 100 for place in got] == logits.argsort(descending=True).tolist()
    empty = by_hand(model, [-1, -1, -1], [1, 1], FEATURES[0])
    assert recommend(model, 404, k=1, cold_start=True, **now)[0].item == 100 + int(empty.argmax())


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            {"context": [4, 6]},
            r"one value for each of the 1 context columns .*, got 2: \[4, 6\]",
        ),
        ({"context": "46"}, "context must be a sequence of values, got the text '46'"),
        ({"features": [1.0]}, r"each of the 2 features columns .*, got 1: \[1.0\]"),
        ({"features": [1.0, float("nan")]}, r"finite float32 .* number 1 \(from 0\) is nan; leave"),
        ({"features": [1e39, 0.0]}, r"finite float32 .* number 0 \(from 0\) is 1e\+39"),
    ],
)
def test_a_situation_that_does_not_fit_the_log_is_an_error(now: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(checkpoint(num_features=2), 7, **now)


def test_a_checkpoint_with_its_schema_names_the_columns() -> None:
    model = checkpoint(context_sizes=())
    schema = LogSchema(user="user", item="item", time="time", quality="click")
    schema = schema.replace(features=("age", "hour"))
    model.facts["schema"] = schema.to_json()
    with pytest.raises(ValueError, match=r"the 0 context columns of the log, got 1: \[4\]"):
        recommend(model, 7, context=[4])
    model.model["num_features"] = 2
    with pytest.raises(ValueError, match=r"features columns of the log \(age, hour\), got 1"):
        recommend(model, 7, features=[4.0])


def test_the_command_line_takes_a_situation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(num_features=2, context_sizes=(2, 2))
    model.save(tmp_path)
    asked = ["recommend", "--checkpoint", str(tmp_path), "--user", "7", "--k", "3", "--json"]
    now = ["--context", "6", "app", "--features", "-40", "5.5"]
    assert cli.main([*asked, *now]) == 0
    found = json.loads(capsys.readouterr().out)["recommendations"]
    expected = recommend(model, 7, k=3, context=[6, "app"], features=[-40.0, 5.5])
    assert [place["item"] for place in found] == [place.item for place in expected]
    assert expected != recommend(model, 7, k=3)
    assert cli.main([*asked, "--context", "6"]) == 2
    assert "one value for each of the 2 context columns" in capsys.readouterr().err


@pytest.mark.parametrize("num_features", [0, 2])
def test_a_checkpoint_survives_the_disk(tmp_path: Path, num_features: int) -> None:
    model = checkpoint(tie_embeddings=False, pooling="attention", num_features=num_features)
    model.save(tmp_path)
    loaded = PolicyCheckpoint.load(tmp_path)
    assert loaded.facts == {"objective": "drpo"}
    assert loaded.items == model.items
    for user in (7, 8, 9):
        assert recommend(loaded, user, k=5) == recommend(model, user, k=5)
    config = RecommendConfig(checkpoint=tmp_path, user="8", k=4)
    assert run_recommend(config) == recommend(model, 8, k=4)


def test_a_checkpoint_from_before_there_were_features_is_read(tmp_path: Path) -> None:
    model = checkpoint()
    model.save(tmp_path)
    artifact = Artifact(tmp_path, kind=KIND, version=VERSION)
    kept = {name: artifact.facts[name] for name in ("model", "facts")}
    users = artifact.tensors("users")
    assert users.pop("features").shape == (3, 0)
    lists = {name: artifact.values(name) for name in ("item_ids", "user_ids", "contexts")}
    tensors = {"policy": artifact.tensors("policy"), "users": users}
    save_artifact(tmp_path, kind=KIND, version=VERSION, facts=kept, tensors=tensors, lists=lists)
    loaded = PolicyCheckpoint.load(tmp_path)
    assert loaded.users.features.shape == (3, 0)
    assert recommend(loaded, 7, k=5) == recommend(model, 7, k=5)


def test_the_saved_index_serves_the_policy_alone(tmp_path: Path) -> None:
    model = checkpoint()
    model.save(tmp_path)
    index = ItemIndex.load(tmp_path / "index")
    hidden = torch.randn(5, 6)
    scores, found = index.top_k(hidden, 3)
    top = catalogue_policy(model.actor).distribution(hidden).topk(3)
    assert torch.equal(found, top.indices)
    torch.testing.assert_close(scores.diff(), top.values.diff())
    assert index.ids == list(range(100, 100 + V))


def test_weights_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    model = checkpoint()
    model.model["dim"] = 7
    model.save(tmp_path)
    with pytest.raises(ArtifactError, match="its parts do not fit each other"):
        PolicyCheckpoint.load(tmp_path)


def test_ids_and_vectors_are_counted() -> None:
    with pytest.raises(ValueError, match="2 item ids for 3 vectors"):
        ItemIndex(ids=[1, 2], vectors=torch.zeros(3, 4), dim=4)


def test_somebody_new_gets_the_list_of_an_empty_history() -> None:
    model = checkpoint()
    assert recommend(model, k=5) == recommend(model, "nobody", k=5, cold_start=True)
