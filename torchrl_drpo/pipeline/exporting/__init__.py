"""Policies as graphs that run without this package."""

from torchrl_drpo.pipeline.exporting.loading import ExportedPolicy, load_exported
from torchrl_drpo.pipeline.exporting.writing import export_policy

__all__ = ["ExportedPolicy", "export_policy", "load_exported"]
