"""What the package was installed with, against what it asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

PACKAGE = "torchrl-drpo"
#: What each extra of users is for.
EXTRAS = {
    "data": "logs from Parquet, CSV, JSON lines, data frames",
    "cli": "the command line, checkpoints, figures",
    "faiss": "drpo recommend --index",
    "onnx": "drpo export --formats onnx",
    "llm": "language models as heads of generative policies",
    "hub": "policies from and to the Hugging Face Hub",
    "ray": "conversion on a Ray cluster",
    "spark": "conversion on a Spark cluster",
}


@dataclass(frozen=True)
class Found:
    """A package that is asked for.

    Attributes:
        name: as on the index.
        wanted: the versions that do, as asked for; empty for any.
        installed: the version that is there; ``None`` for none.
        extra: of which extra it is; ``None`` for what every install needs.
    """

    name: str
    wanted: str
    installed: str | None
    extra: str | None

    @property
    def fits(self) -> bool:
        """Whether it is there, in a version that does."""
        if self.installed is None:
            return False
        return Requirement(f"{self.name}{self.wanted}").specifier.contains(
            self.installed, prereleases=True
        )


def installed_packages(asked: Iterable[str] | None = None) -> list[Found]:
    """Everything that the package asks for on this system, what users' extras ask for included.

    Args:
        asked: requirements as in an installed package's metadata; those of this one by default.

    Raises:
        PackageNotFoundError: where the package runs from a folder and was never installed.

    Example:
        >>> installed_packages(["torch>=2", "faiss-cpu>=1.8; extra == 'faiss'"])[1].extra
        'faiss'
    """
    found = []
    for text in (requires(PACKAGE) or []) if asked is None else asked:
        wanted = Requirement(text)
        if wanted.name == PACKAGE:  # an extra that takes in another one
            continue
        for extra in (None, *EXTRAS):
            # Without an extra the marker is asked about one that nobody has.
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra or "none"}):
                found.append(_look(wanted, extra))
                break
    return found


def _look(wanted: Requirement, extra: str | None) -> Found:
    try:
        there = version(wanted.name)
    except PackageNotFoundError:
        there = None
    return Found(wanted.name, str(wanted.specifier), there, extra)
