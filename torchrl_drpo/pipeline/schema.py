"""``drpo schema``: a draft of a schema from a log that nobody described."""

from __future__ import annotations

import shlex
import sys

from torchrl_drpo.data import LogSchema, RewardFormula
from torchrl_drpo.data.draft import draft_schema
from torchrl_drpo.data.published import published_log
from torchrl_drpo.pipeline.config.draft import SchemaDraftConfig
from torchrl_drpo.pipeline.config.log import log_files
from torchrl_drpo.pipeline.terminal import say
from torchrl_drpo.spelling import printable


def run_schema(config: SchemaDraftConfig) -> None:
    """Carries out ``drpo schema``."""
    if config.dataset is not None:  # which nobody needs to guess
        log, schema = log_files(config)[0], published_log(config.dataset, str(config.root))[1]
    else:
        log = str(config.logs)
        draft = draft_schema(log, kind=config.kind, files=config.text_files(), rows=config.rows)
        schema = draft.schema
        for line in str(draft).splitlines():
            print(printable(line), file=sys.stderr)  # noqa: T201
    text = schema.to_json(compact=True)
    if config.output is None:
        say(text)
        return
    config.output.write_text(text + "\n", encoding="utf-8")
    log, out = shlex.quote(log), shlex.quote(str(config.output))
    print(  # noqa: T201
        f"wrote {config.output}; correct it there, then\n"
        f"  drpo validate --logs {log} --schema {out}\n"
        f"  drpo train --logs {log} --schema {out}{_objectives(schema)}",
        file=sys.stderr,
    )


def _objectives(schema: LogSchema) -> str:
    """What is asked for where every row is worth the same: others than imitation would refuse."""
    return " --objectives bc" if schema.quality == RewardFormula("1") else ""
