"""Arguments of linear_log_prob that do not fit."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import backend, linear_log_prob


@pytest.mark.usefixtures("device")
def test_an_action_or_row_of_an_index_that_does_not_exist_is_named():
    hidden, items, action = torch.zeros(9, 8), torch.zeros(30, 8), torch.zeros(9, dtype=torch.long)
    action[7] = 31
    index = torch.tensor([2, 7, 0])
    linear_log_prob(hidden, items, action, torch.tensor(1), index=index)  # place 1 is dead
    if backend(hidden) == "aten":
        with pytest.raises(ValueError, match=r"\[0, 30\) but row 7 holds 31"):
            linear_log_prob(hidden, items, action, torch.tensor(2), index=index)
    with pytest.raises(IndexError, match=r"index must lie in \[0, 9\) but holds 9"):
        linear_log_prob(hidden, items, action, index=torch.tensor([2, 9]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": torch.zeros(4, 8, dtype=torch.long)}, TypeError, "hidden must be float32"),
        ({"hidden": torch.zeros(8)}, ValueError, "hidden must have 2 dimension"),
        ({"hidden": torch.zeros(8, 4).T}, ValueError, "hidden must be dense"),
        ({"items": torch.zeros(5, 8, dtype=torch.float64)}, TypeError, "items must be float32"),
        ({"items": torch.zeros(5, 7)}, ValueError, "items must have shape"),
        ({"items": torch.zeros(0, 8)}, ValueError, "items must have between 1 and"),
        ({"items": torch.zeros(5, 8, device="meta")}, ValueError, "lies on meta"),
        ({"action": torch.zeros(4)}, TypeError, "action must be int64"),
        ({"action": torch.zeros(3, dtype=torch.long)}, ValueError, "one item a row"),
        ({"bias": torch.zeros(4)}, ValueError, "one score an item"),
        ({"n_rows": torch.zeros(2, dtype=torch.long)}, ValueError, "must hold one integer"),
        ({"inverse_temperature": 0.0}, ValueError, "above 0, got 0.0"),
        ({"inverse_temperature": float("nan")}, ValueError, "above 0, got nan"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    given = {
        "hidden": torch.zeros(4, 8),
        "items": torch.zeros(5, 8),
        "action": torch.zeros(4, dtype=torch.long),
        **change,
    }
    with pytest.raises(error, match=message):
        linear_log_prob(**given)
