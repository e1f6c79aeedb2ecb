"""TorchRL's LossModule contract, held by every objective: what the module itself must do.

State, copies, devices, compilation, ensembles, TorchRL's Trainer; ``test_contract.py`` has what a
batch means to it.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.checkpoint import Checkpoint
from torchrl.trainers import Trainer
from torchrl.trainers.trainers import DefaultOptimizationStepper

from tests.objectives.cases import (
    LOSSES,
    ONE_EACH,
    SAMPLING,
    assert_same,
    batch,
    gaussian_actor,
    gradients,
    make,
    offline_source,
    run,
    total,
)

N = 12
every_loss = pytest.mark.parametrize("name", LOSSES)
fixed_losses = pytest.mark.parametrize("name", [n for n in LOSSES if n not in SAMPLING])


@every_loss
def test_state_dict_is_the_same_before_and_after_a_step_and_loads(name: str, tmp_path: Path):
    loss, data = make(name), batch(gaussian_actor(), N)
    before = set(loss.state_dict())
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    total(run(loss, data)).backward()
    optimizer.step()
    assert set(loss.state_dict()) == before

    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    other = make(name)
    other.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert_same(run(other.eval(), data), run(loss.eval(), data))


@every_loss
def test_a_deep_copy_is_equal_and_independent(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    run(loss, data)  # whatever is cached at the first step must not tie the copy to the original
    twin = copy.deepcopy(loss)
    loss.eval(), twin.eval()
    expected = run(loss, data)
    assert_same(run(twin, data), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert_same(run(loss, data), expected)
    assert run(twin, data)["loss_actor"] != expected["loss_actor"]


@every_loss
@pytest.mark.parametrize("functional", [True, False])
def test_every_trained_parameter_is_reset_and_nothing_else(name: str, functional: bool):
    loss = make(name, functional=functional)
    trained = {key for key, p in loss.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(0.125)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss.reset_parameters_recursive()
    targets = [key for key in before if key.startswith("target_")]
    for key, value in loss.state_dict().items():
        moved = key in trained or key in targets
        assert (not torch.equal(value, before[key])) is moved, key
        if key.endswith("log_std") and key in trained:
            assert (value == 0).all()
    for key in targets:
        torch.testing.assert_close(loss.state_dict()[key], loss.state_dict()[key[7:]])


@every_loss
def test_everything_moves_with_the_module(name: str):
    loss = make(name).double()
    tensors = [*loss.parameters(), *loss.buffers()]
    assert tensors
    assert {t.dtype for t in tensors} == {torch.float64}
    data = batch(gaussian_actor(), N).apply(lambda t: t.double() if t.is_floating_point() else t)
    out = run(loss, data)
    total(out).backward()
    assert out["loss_actor"].dtype == torch.float64
    assert {gradient.dtype for gradient in gradients(loss).values()} == {torch.float64}


@fixed_losses
def test_a_step_reads_nothing_back_to_the_host(name: str):
    # On the meta device every read of a value raises; on an accelerator it would stall.
    with torch.device("meta"):
        loss = make(name)
    assert {t.device.type for t in [*loss.parameters(), *loss.buffers()]} == {"meta"}
    data = batch(gaussian_actor(), N).set("shifted_valid", torch.ones(N, dtype=torch.bool))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No target network updater")
        out = loss(data.to("meta"))
    total(out).backward()
    assert out["loss_actor"].device.type == "meta"


@every_loss
def test_a_module_left_whole_gives_the_same_loss_and_gradients(name: str):
    data = batch(gaussian_actor(), N)
    outs, grads = [], []
    for functional in (True, False):
        torch.manual_seed(5)
        actor = gaussian_actor()
        loss = make(name, actor, functional=functional)
        assert loss.functional is functional
        out = run(loss, data)
        total(out).backward()
        outs.append(out.detach())
        grads.append([p.grad for p in actor.parameters()])
        if not functional:
            inside = {id(p) for p in loss.parameters()}
            assert {id(p) for p in actor.parameters()} <= inside
    assert_same(*outs)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    "name",
    # Seconds each: one form of every class in the gate, the others with -m slow.
    [n if n in ONE_EACH else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES],
)
def test_compiled_whole_it_equals_eager(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    loss.eval()
    if name not in SAMPLING:  # eager skips masked rows, which would move the draws
        data.set("shifted_valid", torch.arange(N) < N - 2)
    expected = run(loss, data)
    total(expected).backward()
    expected_gradients = gradients(loss)
    loss.zero_grad()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        out = run(compiled, data)
    assert_same(out, expected, rtol=1e-5, atol=1e-6)
    total(out).backward()
    torch.testing.assert_close(gradients(loss), expected_gradients, rtol=1e-5, atol=1e-6)


@fixed_losses
def test_vmap_over_an_ensemble_of_actors(name: str):
    members, data = [make(name).eval() for _ in range(3)], batch(gaussian_actor(), N)
    stacked = torch.stack([TensorDict.from_module(m.actor_network_params).data for m in members])
    loss = members[0]
    expected = []
    for index in range(3):
        with stacked[index].to_module(loss.actor_network_params):
            expected.append(loss(data)["loss_actor"])

    def one(params: TensorDict) -> torch.Tensor:
        with params.to_module(loss.actor_network_params):
            return loss(data)["loss_actor"]

    torch.testing.assert_close(torch.vmap(one)(stacked), torch.stack(expected))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of groups
@fixed_losses
@pytest.mark.parametrize("training", [True, False])
def test_vmap_over_batches(name: str, training: bool):
    loss = make(name).train(training)
    data = torch.stack([batch(gaussian_actor(), N, seed=seed) for seed in range(3)])
    if training and getattr(loss, "controller", None) is not None:
        before = loss.kappa.clone()
        with pytest.raises(RuntimeError, match=r"call loss\.eval\(\), or give kappa a number"):
            torch.vmap(lambda rows: loss(rows)["loss_actor"])(data)
        assert torch.equal(loss.kappa, before)
        return
    twin = copy.deepcopy(loss)
    found = torch.vmap(lambda rows: loss(rows)["loss_actor"])(data)
    if name == "bppo":  # whose epsilon decays at each call, and a vmap is one
        twin.eval()
    torch.testing.assert_close(found, torch.stack([twin(rows)["loss_actor"] for rows in data]))


@every_loss
def test_torchrls_trainer_trains_it(name: str, tmp_path: Path):
    loss, data = make(name), batch(gaussian_actor(), N)
    before = {name: p.clone() for name, p in loss.named_parameters()}
    trainer = Trainer(
        collector=offline_source(data),
        total_frames=3 * N,
        frame_skip=1,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.01),
        optimization_stepper=DefaultOptimizationStepper(),
        progress_bar=False,
        checkpoint=Checkpoint(),
    )
    trainer.train()
    for key, parameter in loss.named_parameters():
        assert torch.isfinite(parameter).all()
        if parameter.requires_grad and "qvalue" not in key and "behavior" not in key:
            assert not torch.equal(parameter, before[key]), key
