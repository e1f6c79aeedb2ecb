"""Moments within groups, against a loop over the groups."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.functional.groups import group_minimum, group_moments


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_they_equal_a_loop_over_the_groups(data: st.DataObject):
    n = data.draw(st.integers(1, 30))
    columns = {
        "value": st.floats(-1e3, 1e3, width=32),
        "group": st.sampled_from([-7, 0, 3, 2**40]),
        "valid": st.booleans(),
    }
    drawn = {k: data.draw(st.lists(s, min_size=n, max_size=n)) for k, s in columns.items()}
    values = torch.tensor(drawn["value"], dtype=torch.float64)
    group, mask = torch.tensor(drawn["group"]), torch.tensor(drawn["valid"])
    mean, std = group_moments(torch.where(mask, values, math.nan), group, mask)
    smallest = group_minimum(torch.where(mask, values, math.nan), group, mask)
    for ident in set(drawn["group"]):
        rows = group == ident
        own = values[rows & mask]
        spread = own.std().item() if len(own) > 1 else 0.0
        middle = own.mean().item() if len(own) else 0.0
        assert mean[rows].tolist() == pytest.approx([middle] * int(rows.sum()), abs=1e-9)
        assert std[rows].tolist() == pytest.approx([spread] * int(rows.sum()), abs=1e-9)
        assert (smallest[rows] == (own.min() if len(own) else math.inf)).all()


def test_shapes_and_types():
    values, group = torch.randn(3, 4).bfloat16(), torch.randint(2, (3, 4))
    mean, std = group_moments(values, group)
    assert mean.shape == std.shape == group_minimum(values, group).shape == (3, 4)
    assert mean.dtype == torch.float32
    with pytest.raises(ValueError, match="one shape"):
        group_moments(values, group[:2])
