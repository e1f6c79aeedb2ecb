"""``drpo recommend --serve``: a line of JSON in, a line of JSON out, whatever the line says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.pipeline.serving.served import KINDS, V, checkpoint
from torchrl_drpo import cli
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.serving import service
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request


def answers(model, *lines: bytes | str | dict, usual: Request | None = None) -> list[dict]:
    stream = io.BytesIO(
        b"\n".join(
            line if isinstance(line, bytes) else
            (json.dumps(line) if isinstance(line, dict) else line).encode()
            for line in lines
        )
    )  # fmt: skip
    out: list[str] = []
    service.serve(Recommender(model), stream, out.append, usual or Request())
    assert not any("\n" in line for line in out)
    return [json.loads(line) for line in out]


def items(answer: dict) -> list[str]:
    return [place["item"] for place in answer["recommendations"]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_what_the_function_gives(kind: str) -> None:
    model = checkpoint(kind)
    asked = [
        {"user": 7},
        {"user": "7", "k": 3, "exclude": ["v9"], "id": "a"},
        {"user": 8, "history": ["v1", "v2"], "context": [6], "features": [0.5], "k": V},
        {"history": [], "allow": ["v4", "v5", "v6"], "context": [None]},
        {"user": 404, "cold_start": True, "exclude_seen": False},
        {},
    ]
    found = answers(model, *asked)
    assert len(found) == len(asked)
    for request, answer in zip(asked, found, strict=True):
        assert {k: v for k, v in request.items() if k in ("id", "user")} == {
            k: v for k, v in answer.items() if k != "recommendations"
        }
        options = {k: v for k, v in request.items() if k not in ("id", "user")}
        wanted = recommend(model, request.get("user"), **options)
        assert answer["recommendations"] == [
            {"item": place.item, "score": place.score} for place in wanted
        ]


def test_what_is_drawn_comes_with_its_propensity() -> None:
    model = checkpoint("catalogue")
    drawn, cold, plain = answers(
        model,
        {"user": 7, "sample": True, "k": V},
        {"user": 7, "sample": True, "temperature": 0.01, "k": 1},
        {"user": 7},
    )
    assert drawn["recommendations"][-1]["propensity"] == pytest.approx(1)
    assert items(cold) == items(plain)[:1]  # nearly frozen
    assert "propensity" not in plain["recommendations"][0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "must be an object, got a list"),
        ("null", "must be an object, got null"),
        (b"\xff\xfe", "not UTF-8|not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"features": [NaN]}', "NaN is no number"),
        ('{"usr": 7}', r"has no 'usr' \(did you mean 'user'\?\)"),
        ('{"user": 404}', "user 404 is not among the 3 users"),
        ('{"user": [7]}', "user must be an id"),
        ('{"user": true}', "user must be an id"),
        ('{"k": 0}', "k must be at least 1"),
        ('{"k": 2.5}', "k must be an integer, got 2.5"),
        ('{"history": "v1"}', "history must be a list of item ids"),
        ('{"history": ["v1", "x"]}', "history names 'x'"),
        ('{"context": [4, 6]}', "one value for each of the 1 context columns of the log .tab."),
        ('{"features": [1e999]}', "must be finite float32"),
        ('{"allow": ["x"]}', "none of the items that are allowed"),
        ('{"sample": true, "top_p": 0}', r"top_p must lie in \(0, 1\]"),
        ('{"sample": true, "temperature": -1}', "temperature must be a finite number above 0"),
        ('{"top_p": 0.5}', "is of drawn lists"),
        ('{"features": [1%s]}' % ("0" * 400), "features must be a list of numbers"),
        ('{"sample": true, "temperature": 1%s}' % ("0" * 400), "temperature must be a number"),
        ('{"exclude_seen": 1}', "exclude_seen must be true or false, got 1"),
    ],
)
def test_an_error_is_a_line_and_the_next_request_is_answered(
    line: bytes | str, message: str
) -> None:
    model = checkpoint("catalogue")
    wrong, right = answers(model, "", line, '{"user": 7}')
    assert set(wrong) <= {"error", "line", "user"}
    assert wrong["line"] == 2
    with pytest.raises(ValueError, match=message):
        raise ValueError(wrong["error"])
    assert items(right) == [place.item for place in recommend(model, 7)]


def test_a_line_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LONGEST", 64)
    model = checkpoint("catalogue")
    long = json.dumps({"user": 7, "exclude": ["v1"] * 500})
    wrong, right, last = answers(model, long, {"user": 7}, long)
    assert "at most 64 bytes" in wrong["error"]
    assert items(right)
    assert last["line"] == 3


def test_a_fault_of_ours_leaves_the_others_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoint("catalogue")
    good = Recommender.recommend

    def broken(self, request: Request):
        if request.user == 9:
            raise RuntimeError("boom")
        return good(self, request)

    monkeypatch.setattr(Recommender, "recommend", broken)
    first, second = answers(model, {"user": 9, "id": 1}, {"user": 7})
    assert first == {
        "id": 1,
        "user": 9,
        "error": "a fault of drpo, not of this request (RuntimeError: boom)",
        "line": 1,
    }
    assert items(second)


def test_the_command_answers_until_its_input_ends(tmp_path: Path, monkeypatch, capsys) -> None:
    model = checkpoint("semantic-id")
    model.save(tmp_path)
    asked = io.TextIOWrapper(io.BytesIO(b'{"user": 7}\nno JSON\n{"user": 9, "k": 1}'))
    monkeypatch.setattr("sys.stdin", asked)
    assert cli.main(f"recommend --checkpoint {tmp_path} --serve --k 2".split()) == 0
    said = capsys.readouterr()
    first, second, third = map(json.loads, said.out.splitlines())
    assert items(first) == [place.item for place in recommend(model, 7, k=2)]
    assert second["line"] == 2
    assert items(third) == [place.item for place in recommend(model, 9, k=1)]
    assert "ready: 30 items, 3 users" in said.err
