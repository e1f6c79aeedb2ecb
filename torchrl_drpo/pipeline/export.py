"""``drpo export``: a trained policy as a graph that other programs run."""

from __future__ import annotations

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.serve import ExportConfig
from torchrl_drpo.pipeline.exporting import export_policy, load_exported
from torchrl_drpo.pipeline.kinds.served import turned
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say


def command(config: ExportConfig) -> None:
    """``drpo export``."""
    checkpoint = turned(
        PolicyCheckpoint.load(config.checkpoint, allow_code=config.allow_code),
        tau=config.tau,
        guidance=config.guidance,
        uphill_step=config.uphill_step,
    )
    with progress_bars() as progress:
        export_policy(
            checkpoint,
            config.output,
            k=config.k,
            beam=config.beam,
            exclude=config.exclude,
            formats=config.formats,
            progress=progress,
        )
    facts = load_exported(config.output).facts  # what cannot be read back was not exported
    if config.json:
        print_json(facts)
        return
    reads = ", ".join(f"{each['name']} [B, {each['shape'][1]}]" for each in facts["inputs"])
    how = f", beam {facts['beam'] or 'of all prefixes'}" if facts["beam"] is not None else ""
    files = ", ".join(entry["path"] for entry in facts["files"].values())
    say(f"{config.output}: {reads} -> items, log_probs [B, {config.k}]{how}")
    say(f"{config.output}: {files}, manifest.json")
