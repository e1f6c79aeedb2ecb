"""DRPO with the selection on the device equals DRPO without: loss, gradients, reports, kappa."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.modules import IndependentNormal, ProbabilisticActor

from torchrl_drpo import (
    AdaptiveKappa,
    DRPOLoss,
    SemanticIDCategorical,
    make_catalogue_actor,
    make_gaussian_actor,
)
from torchrl_drpo.objectives.drpo import ceiling as on_host
from torchrl_drpo.objectives.drpo.ceiling import KappaCeiling

N, V = 150, 40


def gaussian_case():
    batch = {"observation": torch.randn(N, 5), "action": torch.randn(N, 3)}
    return make_gaussian_actor(5, 3, hidden=(8,)), batch


def catalogue_case():
    history = torch.randint(-1, V, (N, 4))
    batch = {"observation": {"history": history}, "action": torch.randint(0, V, (N,))}
    return make_catalogue_actor(V, dim=8, history=4), batch


class StateDependentScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.Linear(5, 6)

    def forward(self, state):
        loc, log_scale = self.heads(state).chunk(2, -1)
        return loc, log_scale.exp()


def wide_gaussian_case():
    """TorchRL's own, with a standard deviation for every state."""
    keys = ["loc", "scale"]
    module = TensorDictModule(StateDependentScale(), in_keys=["observation"], out_keys=keys)
    actor = ProbabilisticActor(module, in_keys=keys, distribution_class=IndependentNormal)
    return actor, {"observation": torch.randn(N, 5), "action": torch.randn(N, 3)}


def semantic_case():
    heads = nn.Sequential(nn.Linear(5, 3 * 7), nn.Unflatten(-1, (3, 7)))
    module = TensorDictModule(heads, in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(module, in_keys=["logits"], distribution_class=SemanticIDCategorical)
    return actor, {"observation": torch.randn(N, 5), "action": torch.randint(7, (N, 3))}


def plain_case():
    """A distribution that offers no op."""
    module = TensorDictModule(nn.Linear(5, 7), in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(module, in_keys=["logits"], distribution_class=Categorical)
    return actor, {"observation": torch.randn(N, 5), "action": torch.randint(7, (N,))}


CASES = {
    "gaussian": gaussian_case,
    "wide gaussian": wide_gaussian_case,
    "catalogue": catalogue_case,
    "semantic": semantic_case,
    "plain": plain_case,
}


def make(case):
    actor, batch = CASES[case]()
    reward = torch.randint(0, 30, (N, 1)) / 7  # ties are the rule
    return actor, TensorDict({**batch, "next": {"reward": reward}}, batch_size=[N])


def step(loss, batch):
    out = loss(batch)
    return out, torch.autograd.grad(out["loss_actor"], list(loss.parameters()))


def assert_same_run(actor, batches, backend="fused", **options):
    losses = {path: DRPOLoss(actor, path=path, **options) for path in ("reference", "fused")}
    for batch in batches:
        results = {path: step(loss, batch) for path, loss in losses.items()}
        (want, want_grads), (got, got_grads) = results["reference"], results["fused"]
        for key in losses["fused"].out_keys:
            torch.testing.assert_close(got[key], want[key], rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(got_grads, want_grads, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(losses["fused"].kappa, losses["reference"].kappa)
    assert losses["fused"].backend == backend
    assert losses["reference"].backend == "dense"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighting", ["linear", "uniform", "exponential"])
@pytest.mark.parametrize("ties", ["first", "fraction"])
def test_the_fused_step_equals_the_reference(case, weighting, ties):
    actor, batch = make(case)
    batches = [batch[torch.randperm(N)[: N - 7 * i]] for i in range(4)]
    # Ties that share the last places may be all rows, so the policy is spared none of them.
    crowded = ties == "fraction" and weighting != "linear"
    backend = "fused_op" if crowded and case != "plain" else "fused"
    assert_same_run(actor, batches, backend, weighting=weighting, ties=ties, temperature=0.5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("case", CASES)
def test_a_policy_that_sees_every_row_is_followed_by_one_op(case, reduction):
    actor, batch = make(case)
    batch["collector", "mask"] = mask = torch.rand(N) < 0.7
    backend = "fused" if case == "plain" else "fused_op"
    batch["next", "reward"][~mask] = torch.nan
    if batch["action"].is_floating_point():
        batch["observation"][~mask] = batch["action"][~mask] = torch.nan
    assert_same_run(actor, [batch], backend, kappa=1.0, reduction=reduction)


@pytest.mark.interpreter
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighting", ["linear", "uniform"])
def test_the_fused_step_on_the_triton_kernels_equals_the_reference(case, weighting):
    actor, batch = make(case)
    backend = "fused" if case == "plain" or weighting == "linear" else "fused_op"
    assert_same_run(actor, [batch, batch[:33]], backend, weighting=weighting)


def test_masked_rows_may_hold_anything():
    actor, batch = make("gaussian")
    mask = torch.rand(N) < 0.5
    mask[0] = False  # the row that fills unused places
    batch["collector", "mask"] = mask
    for key in ("observation", "action", ("next", "reward")):
        batch[key][~mask] = torch.nan
    assert_same_run(actor, [batch])


def test_a_fully_masked_batch_gives_zero_with_zero_gradient():
    actor, batch = make("gaussian")
    batch["collector", "mask"] = torch.zeros(N, dtype=torch.bool)
    out, grads = step(DRPOLoss(actor, path="fused", check_inputs=False), batch)
    assert out["loss_actor"] == 0
    assert all((g == 0).all() for g in grads)


def test_the_policy_sees_no_more_rows_than_the_bound_allows():
    actor, batch = make("gaussian")
    seen = []
    actor.module[0].register_forward_hook(lambda m, inputs, out: seen.append(len(out["loc"])))
    loss = DRPOLoss(actor, kappa=0.1, path="fused", functional=False)
    loss(batch)
    assert seen == [16]  # 15 kept, and one for the rounding of the bound


def test_the_fused_step_compiles_without_a_graph_break():
    for case in CASES:
        actor, batch = make(case)
        eager = DRPOLoss(actor, path="fused")
        compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(batch)["loss_actor"], eager(batch)["loss_actor"])


class _Arrival:
    """Stands for a CUDA event: the copy before it has arrived at the third look."""

    def __init__(self):
        self.looks = 0

    def query(self):
        self.looks += 1
        return self.looks >= 3


@pytest.fixture
def far_away(monkeypatch):
    """Kappa as if on another device: reading waits, and copies arrive late. Counts the reads."""
    reads = []
    real = torch.Tensor.__float__
    monkeypatch.setattr(on_host, "reads_are_free", lambda values: False)
    monkeypatch.setattr(on_host, "_sent_to_host", lambda kappa: (kappa.clone(), _Arrival()))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda t: reads.append(t) or real(t))
    return reads


def test_the_host_s_bound_of_kappa_holds_without_reading_it(far_away):
    controller = AdaptiveKappa(initial=0.1, up=1.05, down=0.9)
    kappa, ceiling = torch.tensor(0.1), KappaCeiling()
    bounds = []
    for i in range(200):
        bounds.append(ceiling.bound(kappa))
        assert kappa.item() <= bounds[-1] <= 1.0
        if i < 10:  # tight while kappa only grows
            assert bounds[-1] == pytest.approx(kappa.item(), rel=1e-4)
        grows = i < 10 or i % 3 == 0
        kappa.copy_(controller.step(kappa, torch.tensor(0.0 if grows else 1.0), torch.tensor(1.0)))
        ceiling.advance(kappa, controller)
    assert max(bounds[100:]) < 0.2  # the copies that arrive keep it from growing for ever
    assert sum(t is kappa for t in far_away) == 1
    kappa.fill_(0.9)  # somebody else wrote it: noticed
    assert ceiling.bound(kappa) == pytest.approx(0.9, rel=1e-4)
    assert ceiling.bound(torch.tensor(0.7)) == pytest.approx(0.7, rel=1e-4)  # or replaced it


@pytest.mark.parametrize("start", [0.05, 0.01])
def test_the_bound_holds_over_many_growing_steps_and_from_below_the_controller_s(start, far_away):
    controller, kappa = AdaptiveKappa(up=1.003), torch.tensor(start)
    ceiling = KappaCeiling()
    for i in range(1_050):  # float32 products may round up every time
        assert kappa.item() <= ceiling.bound(kappa)
        moved = controller.step(kappa, torch.tensor(0.0 if i else 1.0), torch.tensor(1.0))
        kappa.copy_(moved)
        ceiling.advance(kappa, controller)
    assert kappa == 1.0


def test_a_kappa_that_nobody_moves_is_read_once(far_away):
    kappa, ceiling = torch.tensor(0.3), KappaCeiling()
    for _ in range(5):
        assert ceiling.bound(kappa) == pytest.approx(0.3, rel=1e-4)
    assert len(far_away) == 1


def test_after_a_capture_the_host_claims_nothing(far_away, monkeypatch):
    # A replay moves kappa on the device, and neither the tensor nor its version tell of it.
    kappa, ceiling = torch.tensor(0.1), KappaCeiling()
    assert ceiling.bound(kappa) < 0.2
    monkeypatch.setattr(on_host, "_capturing", lambda values: True)
    assert ceiling.bound(kappa) == 1.0
    ceiling.advance(kappa, AdaptiveKappa())
    monkeypatch.setattr(on_host, "_capturing", lambda values: False)
    assert ceiling.bound(kappa) == 1.0
    assert copy.deepcopy(ceiling).bound(kappa) < 0.2


def test_steps_before_a_capture_launch_what_the_capture_will(far_away, monkeypatch):
    kappa, ceiling = torch.tensor(0.1), KappaCeiling()
    assert ceiling.bound(kappa) < 0.2
    with monkeypatch.context() as side:
        side.setattr(on_host, "_on_side_stream", lambda values: True)
        kappa.fill_(0.7)
        assert ceiling.bound(kappa) == 1.0
        ceiling.advance(kappa, AdaptiveKappa())
    # Only the answer was another: what was written on the side is known afterwards.
    assert ceiling.bound(kappa) == pytest.approx(0.7 * AdaptiveKappa().up, rel=1e-4)
    assert sum(t is kappa for t in far_away) == 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighting", ["linear", "uniform"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_but_kappa_s_bound_is_read_on_the_host(case, weighting, masked):
    # Meta tensors have shapes and no values: a read, of a value or a count, is an error.
    with torch.device("meta"):
        actor, batch = make(case)
        if masked:
            batch["collector", "mask"] = torch.ones(N, dtype=torch.bool)
        loss = DRPOLoss(actor, path="fused", weighting=weighting)
    loss._ceiling.bound = lambda kappa: 0.3
    _, grads = step(loss, batch)
    assert all(g.device.type == "meta" for g in grads)
    with pytest.raises(RuntimeError, match="meta tensors"):
        float(loss.kappa)


def test_what_the_fused_step_cannot_do_is_named():
    actor, batch = make("gaussian")
    for options in ({"weighting": "kl"}, {"reduction": "none"}, {"group_key": "user"}):
        with pytest.raises(ValueError, match="path='fused' is for flat batches"):
            DRPOLoss(actor, path="fused", **options)(batch)
    with pytest.raises(ValueError, match="path must be 'auto', 'reference' or 'fused'"):
        DRPOLoss(actor, path="triton")
