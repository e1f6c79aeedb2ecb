"""``drpo export``: graphs that give the lists of the eager policy, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.pipeline.exporting.runtimes import FORMATS, HAS_ONNX, RUNTIMES
from tests.pipeline.serving.served import HISTORY, KINDS, V, checkpoint, log_probs, ranked
from torchrl_drpo import cli
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.checkpoint import policy_of
from torchrl_drpo.pipeline.artifacts.folder import ArtifactError
from torchrl_drpo.pipeline.exporting import ExportedPolicy, export_policy, load_exported
from torchrl_drpo.pipeline.exporting.inputs import Input
from torchrl_drpo.pipeline.exporting.loading import _onnx_session
from torchrl_drpo.pipeline.exporting.writing import _write_onnx, traced
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.policies.listing import PolicyLists
from torchrl_drpo.policies.semantic_id import make_semantic_id_actor

USERS = 1_000


def users() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator}
    return {
        "history": torch.randint(-1, V, (USERS, HISTORY), **draw),
        "context": torch.randint(-1, 2, (USERS, 1), **draw),
        "features": torch.randn(USERS, 1, **draw),
        "exclude": torch.randint(-1, V, (USERS, 6), **draw),
    }


def eager(model, rows: dict[str, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The distribution's own probabilities of all items, and a sort."""
    policy = policy_of(model.actor)
    with torch.no_grad():
        hidden = policy(rows["history"], rows["context"], rows["features"])
        every = policy.distribution(hidden).logits
    for column in rows["exclude"].unbind(1):
        there = column >= 0
        every[there.nonzero().squeeze(1), column[there]] = -torch.inf
    best = every.sort(1, descending=True)
    return best.indices[:, :k], best.values[:, :k]


ELSEWHERE = """
import sys
from safetensors.torch import load_file, save_file
from torchrl_drpo.pipeline.exporting import load_exported
rows, runtimes, *folders = sys.argv[1:]
for folder in folders:
    for runtime in runtimes.split(","):
        items, log_probs = load_exported(folder, runtime).tensors(load_file(rows))
        save_file({"items": items, "log_probs": log_probs}, f"{folder}/found.{runtime}")
"""


def test_a_thousand_users_get_the_eager_lists_in_a_fresh_process(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    rows, k = users(), 8
    save_file(rows, tmp_path / "rows")
    models = {kind: checkpoint(kind) for kind in KINDS}
    for kind, model in models.items():
        export_policy(model, tmp_path / kind, k=k, exclude=6, formats=FORMATS)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "rows", ",".join(RUNTIMES)]
        + [tmp_path / kind for kind in KINDS],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for kind, model in models.items():
        items, values = eager(model, rows, k)
        for runtime in RUNTIMES:
            found = load_file(tmp_path / kind / f"found.{runtime}")
            assert torch.equal(found["items"], items), (kind, runtime)
            torch.testing.assert_close(found["log_probs"], values, rtol=1e-4, atol=1e-5)


ENCODERS = {
    "pooling": None,
    "gru": {"kind": "gru"},
    "transformer": {"kind": "transformer", "times": True, "feedback": True},
}


@pytest.mark.parametrize(
    ("head", "encoder", "beam"),
    [
        (None, "gru", None),
        (None, "transformer", None),
        ("gru", "transformer", 16),
        ("transformer", "gru", 16),
        ("parallel", "gru", 16),
        ("transformer", "pooling", 0),
    ],
)
@pytest.mark.filterwarnings(  # torch 2.15 warns of its own loops, as which a GRU leaves for ONNX
    "ignore:_check_is_size will be removed:FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
def test_heads_and_encoders_of_every_kind(
    head: str | None, encoder: str, beam: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    shape = {"dim": 8, "history": 5, "encoder": ENCODERS[encoder]}
    if head is None:
        actor = make_catalogue_actor(90, **shape)
    else:
        codes = torch.randint(0, 5, (90, 3))
        actor = make_semantic_id_actor(codes, head=head, **shape)
    policy = policy_of(actor.eval())
    torch.nn.init.normal_(policy.bias)  # items of one semantic ID must not tie
    lists = PolicyLists(policy, 7, beam=beam, portable=head == "gru").eval()
    rows = {"history": torch.randint(-1, 90, (40, 5)), "exclude": torch.randint(-1, 90, (40, 9))}
    inputs = [Input("history", "int64", 5)]
    if encoder == "transformer":
        rows["times"] = torch.randint(0, 10**15, (40, 5)).sort(1).values
        rows["feedback"] = torch.rand(40, 5)
        inputs += [Input("times", "int64", 5), Input("feedback", "float32", 5)]
    graph = traced(lists, [*inputs, Input("exclude", "int64", 9)], 90)
    wanted, values = lists(**rows)
    if beam != 16:  # of which the search may let the best go, as the eager one does
        with torch.no_grad():
            hidden = policy(*(rows.get(n) for n in ("history", "context", "features")),
                            *(rows.get(n) for n in ("times", "feedback")))  # fmt: skip
            every = policy.distribution(hidden).logits
        every = torch.nn.functional.pad(every, (0, 1))
        every.scatter_(1, torch.where(rows["exclude"] < 0, 90, rows["exclude"]), -torch.inf)
        assert torch.equal(wanted, every[:, :90].topk(7).indices)
    module = graph.module()
    for count in (40, 1):  # of one row it knew nothing
        items, log_probs = module(**{name: each[:count] for name, each in rows.items()})
        assert torch.equal(items, wanted[:count])
        torch.testing.assert_close(log_probs, values[:count], rtol=1e-4, atol=1e-5)
    used = {str(node.target).split(".")[0] for node in graph.graph.nodes if node.op != "output"}
    assert not any("drpo" in each or "triton" in each for each in used)
    if HAS_ONNX:
        portable = PolicyLists(policy, 7, beam=beam, portable=True).eval()
        graph = traced(portable, [*inputs, Input("exclude", "int64", 9)], 90)
        _write_onnx(graph, tmp_path / "policy.onnx")
        found = _onnx_session(tmp_path / "policy.onnx")(rows)
        assert torch.equal(found[0], wanted)
        torch.testing.assert_close(found[1], values, rtol=1e-4, atol=1e-5)


def test_a_catalogue_of_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchrl_drpo.policies.listing.ITEMS_AT_A_TIME", 7)
    rows = users()
    for kind in ("catalogue", "embedding"):
        model = checkpoint(kind)
        items, values = PolicyLists(policy_of(model.actor), 9)(**rows)
        wanted = eager(model, rows, 9)
        assert torch.equal(items, wanted[0])
        torch.testing.assert_close(values, wanted[1], rtol=1e-4, atol=1e-5)


def test_where_the_catalogue_runs_out_places_are_empty() -> None:
    exclude = torch.arange(V - 2).unsqueeze(0)
    for kind in KINDS:
        model = checkpoint(kind)
        rows = {name: each[:1] for name, each in users().items()} | {"exclude": exclude}
        items, values = PolicyLists(policy_of(model.actor), 5)(**rows)
        assert sorted(items[0].tolist()) == [-1, -1, -1, V - 2, V - 1]
        assert torch.equal(items < 0, values == -torch.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_and_raw_ids(tmp_path: Path, capsys, kind: str) -> None:
    model = checkpoint(kind)
    model.save(tmp_path / "policy")
    asked = f"export --checkpoint {tmp_path}/policy --output {tmp_path}/out --k 6 --exclude 3"
    assert cli.main(asked.split()) == 0
    assert "history [B, 4], context [B, 1], features [B, 1], exclude [B, 3]" in (
        capsys.readouterr().out
    )
    exported = load_exported(tmp_path / "out")
    usual = float(model.usual_features())
    names, scores = exported(
        [["v1", "v2", "v3", "v4", "v5"], [], ["v9"]],
        context=[[4], [None], [99]],
        exclude=[["v7", "v8", "who?"], [], ["v9"]],
    )
    for row, (history, context, without) in enumerate(
        [([2, 3, 4, 5], 0, {7, 8}), ([], -1, set()), ([9], -1, {9})]
    ):
        own = log_probs(model, history, context, usual)
        assert names[row] == ranked(own, without)[:6]
        best = [float(own[int(name[1:])]) for name in names[row]]
        assert scores[row] == pytest.approx(best, abs=1e-4)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["schema"] == model.facts["schema"]
    assert manifest["inputs"][0] == {"name": "history", "dtype": "int64", "shape": ["batch", 4]}
    assert set(manifest["files"]) == {"policy.pt2", "item_ids.json", "contexts.json"}
    assert exported([]) == ([], [])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    return load_exported(export_policy(checkpoint("catalogue"), tmp_path_factory.mktemp("x"), k=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"history": [["v1", "x"]]}, "history names 'x'"),
        ({"history": [[]], "exclude": [["v1"]]}, "reads no exclude"),
        ({"history": [[]], "times": [[1]]}, "reads no times"),
        ({"history": [[], []], "context": [[4]]}, "context must be of 2 users"),
        ({"history": [[]], "context": [[4, 4]]}, "context must hold 1 values a user, got 2"),
        ({"history": [[]], "features": [[float("nan")]]}, "features must be finite"),
    ],
)
def test_raw_input_that_does_not_fit_is_refused(exported, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exported(**given)


@pytest.mark.parametrize("name", ["times", "feedback"])
def test_times_and_feedback_are_of_the_items_of_the_history(name: str) -> None:
    facts = {"inputs": [Input("history", "int64", 4).as_json(), Input(name, "int64", 4).as_json()]}
    items = Catalogue(["v1", "v2", "v3"])
    read = ExportedPolicy(facts, items, [], lambda rows: (rows["history"], rows[name].float()))
    assert read([["v1", "v3"]], **{name: [[7, 8]]}) == ([["v1", "v3"]], [[7.0, 8.0]])
    for wrong in ([7], [6, 7, 8]):
        with pytest.raises(ValueError, match=f"{name} must hold one value for each of the 2 items"):
            read([["v1", "v3"]], **{name: [wrong]})


def test_damage_is_seen_and_what_was_there_is_replaced(tmp_path: Path) -> None:
    folder = export_policy(checkpoint("catalogue"), tmp_path / "out", k=2)
    export_policy(checkpoint("catalogue", seed=1), folder, k=3)
    assert len(list(folder.iterdir())) == 4  # three files and their manifest
    assert load_exported(folder).facts["k"] == 3
    with pytest.raises(ArtifactError, match="was not exported for onnx, but for torch"):
        load_exported(folder, "onnx")
    graph = next(folder.glob("policy-*.pt2"))
    graph.write_bytes(graph.read_bytes()[:-7] + b"changed")
    with pytest.raises(ArtifactError, match="is damaged"):
        load_exported(folder)
    with pytest.raises(ArtifactError, match="holds no torchrl-drpo exported policy"):
        load_exported(tmp_path)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch) -> None:
    model = checkpoint("catalogue")
    with pytest.raises(ValueError, match=r"k must lie in \[1, 30\]"):
        export_policy(model, tmp_path, k=31)
    with pytest.raises(ValueError, match="beam is of policies over semantic IDs"):
        export_policy(model, tmp_path, beam=64)
    with pytest.raises(ValueError, match="beam must be at least k = 10"):
        export_policy(checkpoint("semantic-id"), tmp_path, beam=5)
    with pytest.raises(ValueError, match="formats must be some of"):
        export_policy(model, tmp_path, formats=("tflite",))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchrl-drpo\[onnx\]"):
        export_policy(model, tmp_path, formats=("onnx",))
    assert not list(tmp_path.iterdir())
