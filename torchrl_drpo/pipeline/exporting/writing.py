"""A policy's graph, its items and its description, in one folder."""

from __future__ import annotations

import itertools
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchrl_drpo.files import telling_full_disk
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, policy_of
from torchrl_drpo.pipeline.artifacts.folder import save_artifact
from torchrl_drpo.pipeline.artifacts.users import raw_ids
from torchrl_drpo.pipeline.exporting.inputs import KIND, VERSION, Input, inputs_of
from torchrl_drpo.policies.listing import PolicyLists

Format = Literal["pt2", "onnx"]

#: Bytes of an ONNX file at most: it is one protocol buffer.
_LARGEST_ONNX = 2**31 - 2**24
#: Rows that graphs are traced with; any number but 0 and 1, which torch takes for constants.
_ROWS = 3


def export_policy(
    checkpoint: PolicyCheckpoint,
    directory: str | os.PathLike[str],
    *,
    k: int = 10,
    beam: int | None = None,
    exclude: int = 0,
    formats: Sequence[Format] = ("pt2",),
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Path:
    """Writes a policy as a graph from observations to items; replaces an older one.

    Args:
        checkpoint: the policy, of any kind.
        directory: where; made when absent.
        k: length of the lists.
        beam: of a policy over semantic IDs; see :class:`~torchrl_drpo.policies.PolicyLists`.
        exclude: so many items a row can be left out, an input ``[B, exclude]`` of its own; 0
            leaves the input away.
        formats: ``"pt2"`` is ``torch.export``'s own archive, which ``torch.export.load`` reads;
            ``"onnx"`` needs the extra ``[onnx]``. The batch is of any size in both.
        progress: called with a name, the graphs that are traced or written, and of how many.

    Returns:
        The folder: the graphs; ``item_ids`` and, with a context, ``contexts`` (JSON); and
        ``manifest.json``, which names them with their SHA-256 digests and holds inputs, outputs,
        ``k``, ``beam``, the log's schema and how the policy came about.

    Raises:
        ValueError: for numbers out of range, or a policy that is too large for ONNX.
        ModuleNotFoundError: for ONNX without its extra.
    """
    if exclude < 0:
        raise ValueError(f"exclude must be at least 0 items a row, got {exclude}")
    wrong = sorted(set(formats) - {"pt2", "onnx"})
    if wrong or not formats:
        raise ValueError(f"formats must be some of pt2, onnx, got {', '.join(wrong) or 'none'}")
    lists = PolicyLists(policy_of(checkpoint.actor), k, beam=beam).eval()
    inputs = inputs_of(checkpoint, exclude)
    if "onnx" in formats:
        _check_onnx(lists)
    parts = itertools.count(1)

    def tell() -> None:
        progress("graphs, traced and written", next(parts), 2 * len(set(formats)))

    def writer(graph: Any, write: Callable[[Any, Path], None]) -> Callable[[Path], None]:
        def run(path: Path) -> None:
            write(graph, path)
            tell()

        tell()
        return run

    progress("graphs, traced and written", 0, 2 * len(set(formats)))
    writers: dict[str, Callable[[Path], None]] = {}
    if "pt2" in formats:
        writers["policy.pt2"] = writer(traced(lists, inputs, lists.num_items), _write_pt2)
    if "onnx" in formats:
        portable = PolicyLists(lists.policy, k, beam=beam, portable=True).eval()
        writers["policy.onnx"] = writer(traced(portable, inputs, lists.num_items), _write_onnx)
    with telling_full_disk(f"exporting to {directory}"):
        return save_artifact(
            directory,
            kind=KIND,
            version=VERSION,
            facts=_facts(checkpoint, lists, inputs, formats),
            tensors={},
            lists={
                "item_ids": raw_ids(checkpoint.items),
                "contexts": [raw_ids(values) for values in checkpoint.contexts],
            },
            files=writers,
        )


def traced(lists: PolicyLists, inputs: Sequence[Input], num_items: int) -> Any:
    """The ``torch.export.ExportedProgram`` of a policy, its batch of any size.

    Args:
        lists: the policy.
        inputs: what it reads.
        num_items: size of the catalogue.
    """
    example = {each.name: _example(each, num_items) for each in inputs}
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in example}
    # Without a switch of the gradient's mode, and with attention in operations that all runtimes
    # have.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(lists, (), example, dynamic_shapes=shapes)


def _example(entry: Input, num_items: int) -> Tensor:
    rows = entry.empty(_ROWS)
    if entry.name == "history":
        rows[1:, -1:] = num_items - 1
    return rows


def _facts(
    checkpoint: PolicyCheckpoint,
    lists: PolicyLists,
    inputs: Sequence[Input],
    formats: Sequence[Format],
) -> dict[str, Any]:
    usual = None
    if any(each.name == "features" for each in inputs):
        usual = checkpoint.usual_features().tolist()
    return {
        "policy": checkpoint.policy,
        "model": checkpoint.model,
        "k": lists.k,
        "beam": lists.beam,
        "num_items": lists.num_items,
        "inputs": [each.as_json() for each in inputs],
        "outputs": [
            {"name": "items", "dtype": "int64", "shape": ["batch", lists.k]},
            {"name": "log_probs", "dtype": "float32", "shape": ["batch", lists.k]},
        ],
        "usual_features": usual,
        "formats": sorted(set(formats)),
        "torch": str(torch.__version__),
        "schema": checkpoint.facts.get("schema"),
        "facts": {name: v for name, v in checkpoint.facts.items() if name != "schema"},
    }


def _write_pt2(graph: Any, path: Path) -> None:
    with open(path, "wb") as file:  # by its name torch would want it to end with .pt2
        torch.export.save(graph, file)


def _write_onnx(graph: Any, path: Path) -> None:
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        log.setLevel(logging.ERROR)  # it misses torchvision, which nothing here has to do with
        try:
            program = torch.onnx.export(
                graph, (), dynamo=True, verbose=False, output_names=["items", "log_probs"]
            )
        finally:
            log.setLevel(before)
    path.write_bytes(program.model_proto.SerializeToString())


def _check_onnx(lists: PolicyLists) -> None:
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxscript", "onnx_ir"):
            raise
        raise ModuleNotFoundError(
            "ONNX needs its extra: pip install 'torchrl-drpo[onnx]'; pt2 needs nothing",
            name=error.name,
        ) from None
    size = sum(each.nbytes for each in (*lists.parameters(), *lists.buffers()))
    if size > _LARGEST_ONNX:
        raise ValueError(
            f"an ONNX file holds at most 2 GiB and this policy has {size / 2**30:.1f}; export it "
            "as pt2"
        )
