"""What the dispatch decides: how dead rows are kept out, and what counts as TF32 allowed."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels.linear_log_prob import dispatch
from torchrl_drpo_kernels.linear_log_prob.problem import Needed, Problem

N, V, LIVE = 9, 14, 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, under the interpreter, of inf
@pytest.mark.parametrize("highest", [1.0, 1000.0], ids=["small bias", "bias whose exp overflows"])
@pytest.mark.parametrize("width", [16, 300])
def test_dead_rows_that_are_not_cut_off_change_no_gradient(width, highest, device, monkeypatch):
    """A CPU cuts them off; the branch for counts that only a device knows is taken by hand."""
    hidden, items = torch.randn(N, width), torch.randn(V, width)
    bias, action = torch.linspace(-1.0, highest, V), torch.randint(V, (N,))
    hidden[LIVE:], action[LIVE:] = torch.inf, -7
    grads = [g.to(device) for g in (torch.randn(N), torch.randn(N))]
    grads[0][LIVE:] = torch.nan  # whatever arrives there
    given = [x.to(device) for x in (hidden, items, action)]

    def run(rows, n_rows):
        h, e, a = given[0][:rows], given[1], given[2][:rows]
        problem = Problem(h, e, a, n_rows, bias.to(device), 0.7)
        log_prob, lse, mean, _ = dispatch.forward(problem, True)
        arrived = (g[:rows] for g in grads)
        found = dispatch.backward(problem, lse, mean, None, *arrived, Needed(True, True, True))
        return log_prob, lse, found

    *want, (want_hidden, want_items, want_bias) = run(LIVE, None)
    n_rows = torch.tensor([LIVE], device=device)
    monkeypatch.setattr(dispatch, "_living", lambda problem: dispatch._neutralised(problem, n_rows))
    *got, (got_hidden, got_items, got_bias) = run(N, n_rows)
    rounding = {"rtol": 1e-4, "atol": 1e-4}  # products of more rows are summed in another order
    for ours, wanted in zip((*got, got_hidden), (*want, want_hidden), strict=True):
        torch.testing.assert_close(ours[:LIVE], wanted, **rounding)
        assert not ours[LIVE:].any()
    torch.testing.assert_close((got_items, got_bias), (want_items, want_bias), **rounding)


@pytest.mark.parametrize("width", [16, 300])
def test_actions_that_nobody_looked_at_name_no_item(width, device, monkeypatch):
    """A GPU is not waited for: -1 is neither the last item nor whatever lies before the first."""
    around = torch.full((V + 20, width), torch.nan, device=device)
    items = around[10 : 10 + V].normal_()
    hidden, action = torch.randn(N, width, device=device), torch.randint(V, (N,), device=device)
    action[2], action[5], action[6] = -1, V, V + 7
    grad = torch.randn(N, device=device)
    monkeypatch.setattr(dispatch, "_known", dispatch._replaced)
    problem = Problem(hidden, items, action, None, None, 1.0)
    log_prob, lse, mean, _ = dispatch.forward(problem, True)
    needed = Needed(hidden=True, items=True, bias=False)
    d_hidden, d_items, _ = dispatch.backward(problem, lse, mean, None, grad, None, needed)

    h, e, g = hidden.double().cpu(), items.double().cpu(), grad.double().cpu()
    known = torch.tensor([i not in (2, 5, 6) for i in range(N)])
    hot = torch.zeros(N, V, dtype=torch.double)
    hot[known, action.cpu()[known]] = 1
    scores = h @ e.T
    expected = (hot * scores.log_softmax(1)).sum(1).where(known, -torch.inf)
    slope = g[:, None] * (hot - scores.softmax(1))
    loose = {"rtol": 2e-3, "atol": 2e-2} if device.type == "cuda" else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(log_prob.double().cpu(), expected, **loose)
    torch.testing.assert_close(d_hidden.double().cpu(), slope @ e, **loose)
    torch.testing.assert_close(d_items.double().cpu(), slope.T @ h, **loose)


def test_either_of_torch_s_switches_allows_tf32():
    matmul, before = torch.backends.cuda.matmul, dispatch.tf32_allowed()
    try:
        torch.set_float32_matmul_precision("high")
        assert dispatch.tf32_allowed()
        torch.set_float32_matmul_precision("highest")
        assert not dispatch.tf32_allowed()
        matmul.fp32_precision = "tf32"  # from here on the first switch's getter raises
        assert dispatch.tf32_allowed()
    finally:
        matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("high" if before else "highest")
