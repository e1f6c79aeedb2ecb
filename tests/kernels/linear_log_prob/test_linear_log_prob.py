"""linear_log_prob in every implementation against float64, with all logits kept."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import backend, linear_log_prob, reference_only
from torchrl_drpo_kernels._common import HAS_TRITON
from torchrl_drpo_kernels.linear_log_prob import dispatch, op, reference, tiles
from torchrl_drpo_kernels.linear_log_prob.problem import Problem

#: Rows, items, width, live rows (None: all), bias: ragged, whole, single and empty.
CASES = [
    (70, 200, 32, None, False),
    (70, 200, 32, 33, True),
    (5, 77, 20, None, True),
    (1, 1, 16, None, False),
    (1, 300, 3, None, True),
    (64, 128, 50, 64, True),
    (40, 97, 64, 0, True),
    (0, 9, 8, None, False),
    (70, 200, 300, 33, True),
    (33, 77, 300, None, False),
    (4, 9, 300, 0, True),
    (0, 9, 300, None, False),
]
#: Beyond eager's own error; eager runs in the inputs' type.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-4, torch.float64: 1e-12}
#: On a GPU, where float32 is multiplied as TF32 and probabilities are rounded to the inputs' type.
GPU_TOLERANCE = {torch.float32: 2e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}
T = 1 / 1.3


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch, device):
    """Small, ragged tiles: several of each kind at these sizes."""
    monkeypatch.setattr(tiles, "TILE_ROWS", 32)
    monkeypatch.setattr(tiles, "TILE_ITEMS", 48)
    if HAS_TRITON:
        from torchrl_drpo_kernels.linear_log_prob import kernel_backward, products

        monkeypatch.setattr(kernel_backward, "SCANNED_ROWS", 32)
        sizes = {"TILE_ROWS": 32, "BUFFER": 64 * 300, "MIN_ITEMS": 16, "BLOCK": 16}
        for name, value in sizes.items():
            monkeypatch.setattr(products, name, value)
    if device.type != "cuda":
        yield
        return
    torch.set_float32_matmul_precision("high")  # float32 goes through the kernels
    yield
    torch.set_float32_matmul_precision("highest")


def close(ours, theirs, device, *, scale=1.0, **strict):
    """``assert_close`` as strict as asked for, and on a GPU as close as TF32 lets it be."""
    if device.type == "cuda":
        strict = {"rtol": 2e-3, "atol": 2e-3 * scale}
    torch.testing.assert_close(ours, theirs, **strict)


def make(case, device, dtype=torch.float32):
    """Values that half precision holds, so that TF32 multiplies them exactly."""
    n, v, d, live, bias = case
    hidden, items = (
        (torch.randn(n, d) / d**0.25).half().to(dtype),
        torch.randn(v, d).half().to(dtype),
    )
    offset = torch.randn(v).to(dtype) if bias else None
    action = torch.randint(v, (n,))
    n_rows = None if live is None else torch.tensor([live], device=device)
    to = [None if x is None else x.to(device) for x in (hidden, items, action, n_rows, offset)]
    return to


def slopes(n, device):
    """What reaches log_prob and lse from above; the same for the first rows whatever n is."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(max(n, 100), 2, generator=generator, dtype=torch.float64)
    return tuple(draws.to(device)[:n].T)


def run(function, hidden, items, action, n_rows, bias):
    """Outputs and gradients, float64, from leaves of the given type."""
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, items, bias) if x is not None]
    offset = leaves[2] if bias is not None else None
    outputs = function(leaves[0], leaves[1], action, n_rows, offset, 1 / T)[:2]
    weights = slopes(hidden.shape[0], hidden.device)
    loss = sum((w * out.double()).sum() for w, out in zip(weights, outputs, strict=True))
    grads = torch.autograd.grad(loss, leaves)
    return [x.detach().double() for x in (*outputs, *grads)]


def eager(hidden, items, action, n_rows, bias, inverse_temperature):
    """What a user would write, in the inputs' own type; all rows live."""
    logits = hidden @ items.T
    logits = (logits if bias is None else logits + bias) * inverse_temperature
    lse = logits.logsumexp(-1)
    return logits.gather(-1, action[:, None])[:, 0] - lse, lse


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_worse_than_eager(case, dtype, device):
    if dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter multiplies it wrongly, and ATen widens it as float16")
    hidden, items, action, n_rows, bias = make(case, device, dtype)
    double = [None if x is None else x.double() for x in (hidden, items, bias)]
    exact = run(reference.linear_log_prob, double[0], double[1], action, n_rows, double[2])
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    live = case[0] if case[3] is None else case[3]
    if live == 0:
        assert not any(x.any() for x in found)
        return
    plain = run(eager, hidden[:live], items, action[:live], None, bias)
    for i, (ours, true, theirs) in enumerate(zip(found, exact, plain, strict=True)):
        if i < 3:  # log_prob, lse and the gradient of hidden have rows
            assert not ours[live:].any()
            ours, true = ours[:live], true[:live]
        eager_error = (theirs - true).abs().amax()
        tolerance = (GPU_TOLERANCE if device.type == "cuda" else TOLERANCE)[dtype]
        allowed = eager_error + tolerance * (1 + true.abs().amax())
        assert (ours - true).abs().amax() <= allowed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, under the interpreter, of inf
@pytest.mark.parametrize("width", [16, 300])
def test_dead_rows_may_hold_anything(width, device):
    hidden, items, action, n_rows, bias = make((40, 97, width, 23, True), device)
    expected = run(linear_log_prob, hidden, items, action, n_rows, bias)
    hidden[23:], action[23:] = torch.inf, -7
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    for ours, before in zip(found, expected, strict=True):
        assert torch.equal(ours, before)


def test_n_rows_beyond_the_batch_or_below_zero_is_clamped(device):
    hidden, items, action, _, _ = make((9, 30, 16, None, False), device)
    every = linear_log_prob(hidden, items, action)
    for count, live in ((99, 9), (-3, 0)):
        n_rows = torch.tensor(count, dtype=torch.int32, device=device)
        found = linear_log_prob(hidden, items, action, n_rows)
        for ours, whole in zip(found, every, strict=True):
            assert torch.equal(ours[:live], whole[:live])
            assert not ours[live:].any()


def test_index_takes_rows_of_a_selection(device):
    hidden, items, action, _, bias = make((40, 97, 16, None, True), device)
    index = torch.tensor([3, 17, 31, 0, 0], dtype=torch.int32, device=device)
    n_rows = torch.tensor([3], device=device)
    hidden.requires_grad_()
    found = linear_log_prob(hidden, items, action, n_rows, bias, index=index)[0]
    rows = index[:3].long()
    expected = reference.linear_log_prob(hidden[rows], items, action[rows], None, bias)[0]
    close(found[:3], expected, device, rtol=1e-4, atol=1e-5)
    assert not found[3:].any()
    grad, wanted = (torch.autograd.grad(x.sum(), hidden)[0] for x in (found, expected))
    close(grad, wanted, device, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [16, 300])
def test_a_popular_item(width, device):
    """Far more rows name it than are gathered at a time, among them the first and the last."""
    hidden, items, action, n_rows, bias = make((80, 97, width, 75, True), device)
    action[torch.rand(80, device=device) < 0.8] = 40
    action[0] = action[74] = 40
    double = [x.double() for x in (hidden, items, bias)]
    exact = run(reference.linear_log_prob, *double[:2], action, n_rows, double[2])
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    for ours, true in zip(found, exact, strict=True):
        close(ours, true, device, scale=true.abs().max().item(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [16, 300])
def test_excluded_items(width, device):
    hidden, items, action, _, _ = make((20, 130, width, None, False), device)
    bias = torch.zeros(130, device=device)
    bias[:64] = -torch.inf  # whole first tiles
    bias[100] = -torch.inf
    action = action.clamp(101)
    found = run(linear_log_prob, hidden, items, action, None, bias)
    kept = torch.isfinite(bias)
    place = (kept.cumsum(0) - 1)[action]
    expected = run(linear_log_prob, hidden, items[kept], place, None, bias[kept])
    for i, (ours, whole) in enumerate(zip(found, expected, strict=True)):
        rows = ours if i < 3 else ours[kept]
        close(rows, whole, device, rtol=1e-4, atol=1e-4)
        assert i < 3 or not ours[~kept].any()
    assert (linear_log_prob(hidden, items, action * 0, None, bias)[0] == -torch.inf).all()


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_flat_and_peaked_scores(scale, device):
    hidden, items, action, _, _ = make((33, 150, 16, None, False), device)
    items = (items * scale + 5).half().float()  # a common mean, as real item tables have
    action[:5] = (hidden[:5] @ items.T).argmax(-1)
    found = run(linear_log_prob, hidden, items, action, None, None)
    exact = run(reference.linear_log_prob, hidden.double(), items.double(), action, None, None)
    for ours, true in zip(found, exact, strict=True):
        close(
            ours, true, device, scale=items.abs().max().item(), rtol=1e-3, atol=2e-4 * max(scale, 1)
        )
    assert (found[0] <= 0).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scores_that_are_kept_change_nothing(case, monkeypatch):
    given = make(case, torch.device("cpu"))
    results = []
    for budget in (0, 2**30):
        monkeypatch.setattr(tiles, "KEPT_BYTES", budget)
        results.append(run(linear_log_prob, *given))
    for walked, kept in zip(*results, strict=True):
        assert torch.equal(walked, kept)


def test_scores_are_kept_within_the_budget_only(device, monkeypatch):
    if backend(torch.zeros(1, device=device)) != "aten":
        pytest.skip("kernels keep no scores")
    hidden, items, action, *_ = make((9, 70, 16, None, False), torch.device("cpu"))
    for spare, rows in ((0, 9), (-1, 0)):
        monkeypatch.setattr(tiles, "KEPT_BYTES", 9 * 70 * 4 + spare)
        node = linear_log_prob(hidden, items.requires_grad_(), action)[0].grad_fn
        assert node.saved_tensors[-1].shape == (rows, 70)


def test_an_accelerator_gets_fewer_and_larger_tiles():
    with torch.device("meta"):
        hidden, items = torch.empty(5000, 64), torch.empty(20_000, 64)
    found = tiles.Scores(Problem(hidden, items, None, None, None, 1.0))
    shapes = [
        tuple(scores.shape) for e in found.item_tiles() for _, scores, _ in found.row_tiles(*e)
    ]
    assert shapes == [(rows, v) for v in (8192, 8192, 3616) for rows in (4096, 904)]
    assert found.buffer.numel() * 4 == 2**27


@pytest.mark.parametrize("width", [32, 300])
def test_same_bits_every_time(width, device):
    given = make((70, 200, width, 50, True), device)
    first, second = run(linear_log_prob, *given), run(linear_log_prob, *given)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("width", [16, 300])
def test_only_what_is_asked_for_is_computed(width, device):
    hidden, items, action, _, bias = make((9, 30, width, None, True), device)
    whole = run(linear_log_prob, hidden, items, action, None, bias)
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        leaves = [x.clone() for x in (hidden, items, bias)]
        leaves[wanted.index(True)].requires_grad_()
        weights = slopes(9, hidden.device)
        outputs = linear_log_prob(leaves[0], leaves[1], action, None, leaves[2], 1 / T)
        loss = sum((w * out.double()).sum() for w, out in zip(weights, outputs, strict=True))
        leaf = leaves[wanted.index(True)]
        grad = torch.autograd.grad(loss, leaf)[0]
        close(grad.double(), whole[2 + wanted.index(True)], device)
    with torch.no_grad():
        outputs = linear_log_prob(hidden, items, action, None, bias, 1 / T)
    close(outputs[0].double(), whole[0], device)


def test_second_derivatives(device):
    if device.type == "cuda":
        pytest.skip("float64 takes the same path as on the CPU")
    hidden, items, action, _, bias = make((5, 7, 3, None, True), device, torch.float64)
    leaves = [x.requires_grad_() for x in (hidden, items, bias)]
    for n_rows in (None, torch.tensor([3])):

        def function(h, e, b, n_rows=n_rows):
            return linear_log_prob(h, e, action, n_rows, b, 1 / T)

        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("width", [16, 300])
def test_autocast_changes_nothing(width, device):
    given = make((20, 60, width, 13, True), device)
    exact = run(linear_log_prob, *given)

    def under_autocast(*arguments):  # backward runs outside, as torch advises
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return linear_log_prob(*arguments)

    found = run(under_autocast, *given)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


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


@pytest.mark.parametrize("width", [16, 300])
def test_reference_only_forces_the_reference(width, device):
    given = make((20, 60, width, None, True), device)
    with reference_only():
        forced = run(linear_log_prob, *given)
    for ours, whole in zip(forced, run(linear_log_prob, *given), strict=True):
        close(ours, whole, device, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bad", [-1, 30])
def test_actions_outside_the_catalogue_are_named(bad, device, monkeypatch):
    hidden, items, action, _, _ = make((9, 30, 16, None, False), device)
    monkeypatch.setattr(op, "CHECK_ACTIONS_ON_ACCELERATOR", True)
    action[4] = bad
    with pytest.raises(ValueError, match=rf"\[0, 30\) but row 4 holds {bad}; map raw ids"):
        linear_log_prob(hidden, items, action)


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
