"""``drpo schema``: a draft of a schema from a log that nobody described."""

from __future__ import annotations

import shlex
import sys

from torchrl_drpo.data.draft import draft_schema
from torchrl_drpo.pipeline.config.draft import SchemaDraftConfig
from torchrl_drpo.pipeline.terminal import say
from torchrl_drpo.spelling import printable


def run_schema(config: SchemaDraftConfig) -> None:
    """Carries out ``drpo schema``."""
    draft = draft_schema(config.log, kind=config.kind, files=config.text_files(), rows=config.rows)
    text = draft.schema.to_json(compact=True)
    for line in str(draft).splitlines():
        print(printable(line), file=sys.stderr)  # noqa: T201
    if config.out is None:
        say(text)
        return
    config.out.write_text(text + "\n", encoding="utf-8")
    log, out = shlex.quote(config.log), shlex.quote(str(config.out))
    print(  # noqa: T201
        f"wrote {config.out}; correct it there, then\n"
        f"  drpo validate --logs {log} --schema {out}\n"
        f"  drpo train --logs {log} --schema {out}",
        file=sys.stderr,
    )
