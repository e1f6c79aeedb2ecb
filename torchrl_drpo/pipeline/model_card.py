"""A model card: what a policy learned from, how it did, how it is used, in Markdown."""

from __future__ import annotations

from typing import Any

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint

_CARD = """---
library_name: torchrl-drpo
tags:
- recommendation
- offline-reinforcement-learning
- torchrl
---
<!-- No licence is stated. To grant one, add a line `license:` above. -->

# {name}

A recommender over {items:,} items ({policy}), trained by the objective `{objective}` with
torchrl-drpo (the method: [arXiv 2602.10430](https://arxiv.org/abs/2602.10430)).

## Use

```python
from torchrl_drpo.pipeline.pretrained import from_pretrained
from torchrl_drpo.pipeline.recommend import recommend

recommend(from_pretrained("{name}"), history=[{example}], k=10)
```

A history holds raw item ids, the latest one last; the policy reads the last {window}.

## The log

{log}

## Metrics

{metrics}
"""


def model_card(checkpoint: PolicyCheckpoint, name: str) -> str:
    """The card of a policy; nothing stands in it that the checkpoint does not say.

    Args:
        checkpoint: the policy.
        name: what it is called, a folder or an id on the Hub.
    """
    facts, items = checkpoint.facts, checkpoint.items
    return _CARD.format(
        name=name,
        items=len(items),
        policy=checkpoint.policy,
        objective=facts.get("objective", "not recorded"),
        example=", ".join(repr(item) for item in items.decode(range(min(2, len(items))))),
        window=f"{checkpoint.window} items",
        log=_log(facts.get("data", {})),
        metrics=_metrics(facts.get("metrics", {}), facts.get("data", {})),
    )


def _log(data: dict[str, Any]) -> str:
    """Rows, users, items and parts, as far as they are known."""
    counts = [f"{data[name]:,} {name}" for name in ("rows", "users", "items") if name in data]
    parts = [f"{rows:,} in {name}" for name, rows in data.get("parts", {}).items()]
    if not counts:
        return "Not recorded."
    told = ", ".join(counts) + (f"; {', '.join(parts)}" if parts else "")
    day = data.get("first_test_day")
    return told + (f". Rows from {day} on were held out." if day else ".")


def _metrics(metrics: dict[str, Any], data: dict[str, Any]) -> str:
    """A table of all numbers there are, and what they rest on."""
    numbers = {name: v for name, v in metrics.items() if isinstance(v, int | float)}
    if not numbers:
        return "Not recorded."
    held_out = data.get("parts", {}).get("test")
    on = "" if held_out is None else f"On {held_out:,} held-out rows, one run.\n\n"
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    return f"{on}| metric | value |\n|:--|--:|\n{rows}"
