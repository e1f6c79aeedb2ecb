"""What a validation found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torchrl_drpo.spelling import counted

from ..store.report import fault_name


@dataclass
class Fault:
    """One kind of fault, of one column where it is a column's.

    Args:
        kind: what is wrong.
        severity: ``"error"`` or ``"warning"``.
        count: rows (or items, or files) with it.
        advice: what was expected and what to do.
        examples: some places, each with ``file``, ``row`` and ``value`` where they apply.
        column: whose values are wrong, by its name in the files; None where it is not one's alone.
    """

    kind: str
    severity: str
    count: int = 0
    advice: str = ""
    examples: list[dict[str, Any]] = field(default_factory=list)
    column: str | None = None

    @property
    def name(self) -> str:
        """The kind, and the column: the key of ``ConversionReport.dropped``."""
        return fault_name(self.kind, self.column)


@dataclass
class ValidationReport:
    """All faults of a log.

    Args:
        files: files read.
        rows: rows read.
        users: distinct users, zero without a user column.
        items: size of the catalogue.
        faults: errors first.
    """

    files: int = 0
    rows: int = 0
    users: int = 0
    items: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a conversion would take every row."""
        return not any(fault.severity == "error" for fault in self.faults)

    def fault(self, kind: str, column: str | None = None) -> Fault | None:
        """The fault of that kind (and that column, else the first one's), None where there is none.

        A log may have one of a kind for every column.
        """
        return next(
            (
                fault
                for fault in self.faults
                if fault.kind == kind and column in (None, fault.column)
            ),
            None,
        )

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=2)

    def __str__(self) -> str:
        counts = {"row": self.rows, "user": self.users, "item": self.items, "file": self.files}
        lines = [", ".join(counted(count, noun) for noun, count in counts.items())]
        for fault in self.faults:
            lines.append(f"{fault.severity}: {fault.name}: {fault.count}; {fault.advice}")
            lines += [
                "    " + ", ".join(f"{name} {value}" for name, value in example.items())
                for example in fault.examples
            ]
        return "\n".join(lines if self.faults else [*lines, "no faults"])
