"""The hooks of the site, as the site loads them: each by its file."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from tests.docs.reading import ROOT


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"hook_{name}", ROOT / "docs/hooks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
