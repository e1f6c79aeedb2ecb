"""An exported policy, checked and ready: raw ids in, raw ids out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.folder import Artifact, ArtifactError
from torchrl_drpo.pipeline.artifacts.users import RawId
from torchrl_drpo.pipeline.exporting.inputs import KIND, VERSION, Input

Runtime = Literal["torch", "onnx"]
_FILES: dict[str, str] = {"torch": "policy.pt2", "onnx": "policy.onnx"}
_Run = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]


class ExportedPolicy:
    """A policy as it was exported; see :func:`load_exported`.

    Attributes:
        facts: the manifest.
        items: the items, by their numbers.
        contexts: the values of each context column.
        inputs: what the graph reads, by name.
    """

    def __init__(
        self,
        facts: dict[str, Any],
        items: Catalogue,
        contexts: list[Catalogue],
        run: _Run,
    ) -> None:
        self.facts, self.items, self.contexts, self._run = facts, items, contexts, run
        self.inputs = {each["name"]: Input.from_json(each) for each in facts["inputs"]}

    def __call__(
        self,
        history: Sequence[Sequence[RawId]],
        *,
        context: Sequence[Sequence[RawId | None]] | None = None,
        features: Sequence[Sequence[float]] | None = None,
        exclude: Sequence[Sequence[RawId]] | None = None,
        times: Sequence[Sequence[int]] | None = None,
        feedback: Sequence[Sequence[float]] | None = None,
    ) -> tuple[list[list[RawId]], list[list[float]]]:
        """Lists for users.

        Args:
            history: raw ids of the items of each of ``B`` users, oldest first; of longer ones the
                latest are read.
            context: raw values of the context columns, in the schema's order; those that the log
                does not hold, and ``None``, count as unknown. Left out, all are.
            features: raw numbers; left out, the training rows' mean.
            exclude: raw ids of items that must not come back, as many a user as the export has
                room for at most; those of no item say nothing.
            times: ticks of each history's rows, of which ``facts["facts"]["ticks_per_second"]``
                make a second; where the policy reads them.
            feedback: quality of each history's rows; where the policy reads it.

        Returns:
            Raw item ids and log-probabilities of each user, likeliest first; fewer than ``k``
            where the catalogue ran out.

        Raises:
            ValueError: for a history's item that is not in the catalogue, what the graph does not
                read, or lists that do not fit each other.
        """
        rows = len(history)
        if not rows:
            return [], []
        given = {
            "history": [self._known(each) for each in history],
            "context": None if context is None else [self._codes(each) for each in context],
            "features": features,
            "exclude": None if exclude is None else [self._some(each) for each in exclude],
            "times": times,
            "feedback": feedback,
        }
        items, log_probs = self.tensors(self._tensors(given, rows))
        left = items >= 0
        names = [self.items.decode(each[there]) for each, there in zip(items, left, strict=True)]
        return names, [each[there].tolist() for each, there in zip(log_probs, left, strict=True)]

    def tensors(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The graph itself: tensors by the names of :attr:`inputs`, ``[B, width]`` each.

        Returns:
            Item numbers, int64, and log-probabilities, ``[B, k]``; -1 and -inf where the catalogue
            ran out.
        """
        return self._run(inputs)

    def _tensors(self, given: Mapping[str, Any], rows: int) -> dict[str, Tensor]:
        unread = [n for n, v in given.items() if v is not None and n not in self.inputs]
        if [name for name in unread if name != "history"]:
            raise ValueError(
                f"this policy reads no {unread[-1]}; it was exported to read "
                f"{', '.join(self.inputs)}"
            )
        found = {}
        for name, entry in self.inputs.items():
            values = given[name]
            out = entry.empty(rows)
            if values is None:
                if name in ("times", "feedback"):
                    raise ValueError(f"this policy reads {name}: give those of each history")
                if name == "features":
                    out += torch.tensor(self.facts["usual_features"])
                found[name] = out
                continue
            if len(values) != rows:
                raise ValueError(
                    f"{name} must be of {rows} users, as history is, not {len(values)}"
                )
            for row, each in enumerate(values):
                if name in ("times", "feedback") and len(each) != len(given["history"][row]):
                    raise ValueError(
                        f"{name} must hold one value for each of the {len(given['history'][row])} "
                        f"items of the history of user {row} (from 0), got {len(each)}"
                    )
                self._fill(out[row], entry, each, row)
            if not torch.isfinite(out).all():
                raise ValueError(f"{name} must be finite float32 numbers")
            found[name] = out
        return found

    def _fill(self, row: Tensor, entry: Input, values: Sequence[Any], number: int) -> None:
        if entry.name in ("history", "times", "feedback"):
            values = values[max(0, len(values) - entry.width) :]  # the latest, on the right
            if len(values):
                row[-len(values) :] = torch.as_tensor(values, dtype=row.dtype)
            return
        if len(values) > entry.width or (entry.name != "exclude" and len(values) < entry.width):
            most = "at most " if entry.name == "exclude" else ""
            raise ValueError(
                f"{entry.name} must hold {most}{entry.width} values a user, got {len(values)} of "
                f"user {number} (from 0)"
            )
        row[: len(values)] = torch.as_tensor(values, dtype=row.dtype)

    def _known(self, history: Sequence[RawId]) -> Tensor:
        numbers = self.items.find_all(history)
        if (numbers < 0).any():
            place = int((numbers < 0).nonzero()[0])
            raise ValueError(
                f"history names {history[place]!r}, which is not in the catalogue of "
                f"{len(self.items)} items"
            )
        return numbers

    def _codes(self, values: Sequence[RawId | None]) -> list[int]:
        pairs = zip(self.contexts, values, strict=False)
        codes = [-1 if raw is None else known.find(raw) for known, raw in pairs]
        return codes + [-1] * (len(values) - len(codes))

    def _some(self, items: Sequence[RawId]) -> Tensor:
        numbers = self.items.find_all(items)
        return numbers[numbers >= 0].unique()


def load_exported(
    directory: str | os.PathLike[str], runtime: Runtime | None = None
) -> ExportedPolicy:
    """Reads what ``drpo export`` wrote; every file's digest is checked first.

    A digest tells damage, not malice: graphs are read by torch and ONNX Runtime, so load the
    folders of people whom you trust. Everything else is JSON.

    Args:
        directory: the folder.
        runtime: ``"torch"`` or ``"onnx"``; the one that is there by default, torch first.

    Returns:
        What takes raw ids to raw ids.

    Raises:
        ArtifactError: if it is absent, damaged, foreign, of another version, or was not exported
            for this runtime.
        ModuleNotFoundError: for ONNX without its extra.
    """
    artifact = Artifact(directory, kind=KIND, version=VERSION)
    facts = artifact.facts
    there = [name for name, file in _FILES.items() if file in facts["files"]]
    chosen = there[0] if runtime is None else runtime
    if chosen not in there:
        raise ArtifactError(
            f"{directory} was not exported for {chosen}, but for {', '.join(there)}"
        )
    path = artifact.path(_FILES[chosen])
    run = _torch_graph(path) if chosen == "torch" else _onnx_session(path)
    return ExportedPolicy(
        facts,
        Catalogue(artifact.values("item_ids")),
        [Catalogue(values) for values in artifact.values("contexts")],
        run,
    )


def _torch_graph(path: Path) -> _Run:
    with open(path, "rb") as file:
        module = torch.export.load(file).module()

    def run(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            items, log_probs = module(**inputs)
        return items, log_probs

    return run


def _onnx_session(path: Path) -> _Run:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ModuleNotFoundError(
            "ONNX Runtime comes with the extra: pip install 'torchrl-drpo[onnx]'",
            name="onnxruntime",
        ) from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        given = {name: values.numpy() for name, values in inputs.items()}
        items, log_probs = session.run(["items", "log_probs"], given)
        return torch.from_numpy(items), torch.from_numpy(log_probs)

    return run
