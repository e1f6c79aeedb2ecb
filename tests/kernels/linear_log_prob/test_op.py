"""linear_log_prob as an op of torch: its schema, torch.compile, vmap, checks of ids."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import backend, linear_log_prob
from torchrl_drpo_kernels.linear_log_prob import op

from tests.kernels.linear_log_prob.cases import close, make, run, slopes

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.mark.parametrize(
    ("n_rows", "dtype"), [(None, torch.float32), (5, torch.float32), (5, torch.float16)]
)
def test_a_well_formed_op(n_rows, dtype, device):
    hidden, items, action, count, bias = make((9, 30, 16, n_rows, True), device, dtype)
    leaves = (hidden.requires_grad_(), items.requires_grad_(), action, count, bias)
    keep = n_rows is None and backend(hidden) == "aten"
    torch.library.opcheck(op._linear_log_prob, (*leaves, 1.3, True, keep))
    lse, mean, scores = op._linear_log_prob(*leaves, 1.3, True, keep)[1:]
    plain = [x if x is None else x.detach() for x in (*leaves, lse, mean, scores)]
    weights = [w.float() for w in slopes(9, hidden.device)]
    for need in ((True, True, True), (True, False, False), (False, True, False)):
        given = plain[:5] if need[2] else [*plain[:4], None]  # without a bias it has no gradient
        arguments = (*given, 1.3, *plain[5:], *weights, *need)
        torch.library.opcheck(op._linear_log_prob_backward, arguments)


@pytest.mark.parametrize("n_rows", [None, 5])
def test_compiled_equals_eager(n_rows, device):
    hidden, items, action, count, bias = make((9, 30, 16, n_rows, True), device)
    function = torch.compile(linear_log_prob, fullgraph=True, backend="aot_eager")
    ours, theirs = (run(f, hidden, items, action, count, bias) for f in (function, linear_log_prob))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_vmap_equals_a_loop(device):
    hidden, items = torch.randn(3, 9, 16, device=device), torch.randn(3, 30, 16, device=device)
    action = torch.randint(30, (9,), device=device)
    leaves = [hidden.requires_grad_(), items.requires_grad_()]
    mapped = torch.vmap(lambda h, e: linear_log_prob(h, e, action)[0])(*leaves)
    members = [linear_log_prob(h, e, action)[0] for h, e in zip(hidden, items, strict=True)]
    looped = torch.stack(members)
    close(mapped, looped, device)
    grads = [torch.autograd.grad(x.square().sum(), leaves) for x in (mapped, looped)]
    close(*grads, device)


@pytest.mark.parametrize("bad", [-1, 30])
def test_actions_outside_the_catalogue_are_named(bad, device, monkeypatch):
    hidden, items, action, _, _ = make((9, 30, 16, None, False), device)
    monkeypatch.setattr(op, "CHECK_ACTIONS_ON_ACCELERATOR", True)
    action[4] = bad
    with pytest.raises(ValueError, match=rf"\[0, 30\) but row 4 holds {bad}; map raw ids"):
        linear_log_prob(hidden, items, action)
