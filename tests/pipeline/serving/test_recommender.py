"""Lists of all kinds of policies against rankings and laws written out."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.pipeline.serving.served import KINDS, V, checkpoint, log_probs, ranked
from torchrl_drpo import cli
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.serving.lists import Sampling
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request

SEEN = {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("kind", KINDS)
def test_lists_leave_out_what_was_seen_and_what_is_excluded(kind: str) -> None:
    model = checkpoint(kind)
    scores = log_probs(model, [2, 3, 4, 5], 0, 1.0)
    recommender = Recommender(model)
    found = recommender.recommend(Request(7, k=V, exclude=["v9", "v20", "never heard of", 3]))
    assert [place.item for place in found] == ranked(scores, SEEN | {9, 20})
    gaps = torch.tensor([place.score for place in found]).diff()
    own = scores[[int(place.item[1:]) for place in found]].diff()
    torch.testing.assert_close(gaps, own, rtol=1e-4, atol=1e-5)
    every = recommender.recommend(Request(7, k=V, exclude_seen=False))
    assert [place.item for place in every] == ranked(scores)


@pytest.mark.parametrize("kind", KINDS)
def test_an_allow_list_is_all_that_comes_back(kind: str) -> None:
    model = checkpoint(kind)
    scores = log_probs(model, [2, 3, 4, 5], 0, 1.0)
    allow, only = ["v29", "v3", "v11", "v12", "unheard of", "v12"], {29, 3, 11, 12}
    for found in (
        recommend(model, 7, k=V, allow=allow),
        Recommender(model, allow=allow).recommend(Request(7, k=V)),
        Recommender(model, allow=[f"v{i}" for i in (29, 3, 11, 12, 13)]).recommend(
            Request(7, k=V, allow=[*allow, "v14"])
        ),
    ):
        assert [place.item for place in found] == ranked(scores, SEEN, only)
    first = recommend(model, 7, k=1, allow=allow, exclude=["v11"])
    assert [place.item for place in first] == ranked(scores, SEEN | {11}, only)[:1]
    for wrong in (["nothing"], []):
        with pytest.raises(ValueError, match="none of the items that are allowed"):
            recommend(model, 7, allow=wrong)
        with pytest.raises(ValueError, match="none of the items that are allowed"):
            Recommender(model, allow=wrong)


@pytest.mark.parametrize("kind", ["catalogue", "embedding"])
def test_what_is_drawn_has_the_propensity_that_is_said(kind: str) -> None:
    model = checkpoint(kind)
    recommender = Recommender(model)
    sampling = Sampling(0.5, 0.8, torch.Generator().manual_seed(0))
    request = Request(7, k=2, allow=["v7", "v11", "v12", "v28", "v3"], sampling=sampling)
    scores = log_probs(model, [2, 3, 4, 5], 0, 1.0)
    left = {item: math.exp(scores[item] / 0.5) for item in (7, 11, 12, 28)}
    mass, kept = 0.0, {}
    for item, weight in sorted(left.items(), key=lambda pair: -pair[1]):
        if mass < 0.8 * sum(left.values()) or len(kept) < 2:
            kept[item] = weight
        mass += weight
    law = {item: weight / sum(kept.values()) for item, weight in kept.items()}
    count: Counter[int] = Counter()
    for _ in range(150):
        one, two = recommender.recommend(request)
        first, second = int(one.item[1:]), int(two.item[1:])
        count[first] += 1
        assert one.propensity == pytest.approx(law[first], rel=1e-4)
        assert two.propensity == pytest.approx(law[second] / (1 - law[first]), rel=1e-4)
        assert one.score - two.score == pytest.approx(
            float(scores[first] - scores[second]), abs=1e-4
        )
    for item, chance in law.items():
        assert count[item] / 150 == pytest.approx(chance, abs=5 * math.sqrt(0.25 / 150))


def test_walks_of_a_semantic_id_policy_say_their_propensity() -> None:
    model = checkpoint("semantic-id")
    generator = torch.Generator().manual_seed(0)
    drawn = recommend(model, 7, k=V, sampling=Sampling(generator=generator))
    assert {place.item for place in drawn} == {f"v{i}" for i in range(V)} - {f"v{i}" for i in SEEN}
    assert drawn[-1].propensity == pytest.approx(1.0)  # the only one that is left
    scores = log_probs(model, [2, 3, 4, 5], 0, 1.0)
    first = recommend(model, 7, k=1, exclude_seen=False, sampling=Sampling(generator=generator))[0]
    assert math.log(first.propensity) == pytest.approx(float(scores[int(first.item[1:])]), abs=1e-4)
    assert first.score == pytest.approx(float(scores[int(first.item[1:])]), abs=1e-4)


def test_a_generator_of_one_seed_draws_alike() -> None:
    model = checkpoint("catalogue")
    lists = [
        recommend(model, 7, k=5, sampling=Sampling(generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2, 3)
    ]
    assert lists[0] == lists[1]
    assert len({tuple(place.item for place in each) for each in lists}) > 1


@pytest.mark.parametrize("kind", ["catalogue", "embedding"])
@pytest.mark.parametrize("search", ["flat", "ivf", "hnsw"])
def test_an_index_of_faiss_gives_the_lists_and_says_its_recall(kind: str, search: str) -> None:
    pytest.importorskip("faiss", exc_type=ImportError)
    model = checkpoint(kind)
    recommender = Recommender(model, search=search, k=3)
    assert recommender.recall == (3, 1.0, 3)
    for user in (7, 8, 9):
        exact = recommend(model, user, k=5)
        found = recommender.recommend(Request(user, k=5))
        assert [place.item for place in found] == [place.item for place in exact]


def test_a_policy_over_semantic_ids_has_no_index() -> None:
    with pytest.raises(ValueError, match="has no hnsw index"):
        Recommender(checkpoint("semantic-id"), search="hnsw")


def test_the_command_takes_a_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = checkpoint("catalogue")
    model.save(tmp_path / "policy")
    asked = f"recommend --checkpoint {tmp_path}/policy --k 4 --json --history v3 v5"
    assert cli.main(asked.split()) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = recommend(model, k=4, history=["v3", "v5"])
    assert [each["item"] for each in found["recommendations"]] == [each.item for each in wanted]
    assert cli.main([*asked.split(), "nowhere"]) == 2
    assert "history names 'nowhere'" in capsys.readouterr().err


def test_the_command_says_the_recall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss", exc_type=ImportError)
    model = checkpoint("catalogue")
    model.save(tmp_path)
    asked = f"recommend --checkpoint {tmp_path} --user 7 --k 4 --index hnsw".split()
    assert cli.main(asked) == 0
    assert "hnsw: recall@4 1.0000 against the exact search, 3 users" in capsys.readouterr().err
    assert cli.main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recall"] == {"k": 4, "value": 1.0, "queries": 3}
    wanted = [place.item for place in recommend(model, 7, k=4)]
    assert [place["item"] for place in found["recommendations"]] == wanted
