"""Policies that earlier releases wrote: what they recommended then, they recommend now.

`release_0_1_0` was written by commit b3d7b79, before modules moved: manifests name kinds of
policies and never modules.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.recommend import recommend

FOLDER = Path(__file__).parent / "release_0_1_0"
THEN = {  # drpo recommend --user 3 --k 4 by the commit that wrote them
    "catalogue": [("v9", 0.4166146), ("v2", 0.1026633), ("v7", -0.2183283)],
    "embedding": [("v2", 4.9667287), ("v9", 3.9437387), ("v7", -0.7157971)],
}


@pytest.mark.parametrize("kind", THEN)
def test_an_older_policy_recommends_what_it_did(kind: str) -> None:
    checkpoint = PolicyCheckpoint.load(FOLDER / kind)
    assert checkpoint.policy == kind
    found = recommend(checkpoint, 3, k=4)
    assert [item for item, _ in found] == [item for item, _ in THEN[kind]]
    assert [score for _, score in found] == pytest.approx(
        [score for _, score in THEN[kind]], rel=1e-5
    )
    assert "torchrl_drpo." not in (FOLDER / kind / "manifest.json").read_text()
