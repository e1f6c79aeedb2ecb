"""Random damage to a schema's JSON: a clear error, or another schema."""

from __future__ import annotations

import json
import random

import pytest

from tests.data.conftest import other_number
from torchrl_drpo.data import LogSchema


def test_damaged_schemas_are_refused_or_are_schemas():
    pytest.importorskip("torchrl_drpo.data.schema.types")  # fields of other types are refused there
    text = LogSchema.preset("kuairand").to_json()
    for number in range(300):
        rng = random.Random(number)
        if number % 3:
            data = json.loads(text)
            other_number(rng, data)
            changed = json.dumps(data)
        else:
            content = bytearray(text.encode())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            changed = content[: rng.choice([len(content), rng.randrange(len(content))])].decode(
                errors="replace"
            )
        try:
            schema = LogSchema.from_json(changed)
        except ValueError:
            continue
        assert LogSchema.from_json(schema.to_json()) == schema
