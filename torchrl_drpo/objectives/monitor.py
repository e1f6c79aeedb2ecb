"""The phantom-gradient monitor: what the negatives would do to the policy, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_drpo.functional.diagnostics import (
    effective_sample_size,
    negative_mass_ratio,
    taper_active_fraction,
    taper_retention,
)
from torchrl_drpo.functional.reductions import weighted_nll
from torchrl_drpo.functional.weights import signed_weights
from torchrl_drpo.objectives import _batch, _checks
from torchrl_drpo.objectives._remoteness import RemotenessKind, remoteness_and_score
from torchrl_drpo.objectives.advantage import Baseline
from torchrl_drpo.objectives.repulsive import RepulsiveLoss

#: Parts of parameter names that say "a Gaussian's spread".
_SPREAD_NAMES = ("log_std", "log_scale", "log_sigma")


class PhantomGradientMonitor:
    r"""Watches the gradients of the attractive and of the repulsive samples, apart.

    Whatever objective trains the policy, the monitor splits a batch by the sign of its advantage
    A = R - b and differentiates :math:`-E[A_+ \log\pi]` and :math:`E[w(D) A_- \log\pi]` one by
    one. Nothing is applied: no ``.grad`` is written, no dropout mask drawn, no running statistic
    moved. On a policy that learns from positives only, growing negative gradients show what a
    signed loss would have done to it (arXiv 2602.10430, section 3).

    Sessions are looked at step by step. It costs one forward and two backward passes on every
    ``interval``-th call and a counter on the others: about 3% of a plain step by default.

    Args:
        actor_network: the policy, or ``loss.actor_network``: a loss shares its parameters with
            the actor that it was given.

    Keyword Args:
        interval: calls from one look to the next, at least 1. The first call looks.
        groups: name -> parts of parameter names; a parameter belongs to the first group of which
            a part occurs in its name, and to ``"rest"`` without one. By default a Gaussian's
            parameters split into ``"log_sigma"`` and ``"mean"``, others are all ``"policy"``.
        baseline: b of the advantage; see :class:`~torchrl_drpo.objectives.AdvantageLoss`. Not
            used where the batch has an ``advantage``.
        taper: w(D) on the negatives; ``None`` shows them untapered.
        remoteness: ``"auto"`` or ``"per_dimension"``; see ``RepulsiveLoss``.
        near: D up to which a negative counts as near; by default the taper's threshold.
        reward_key, advantage_key, action_key: where the batch has them.

    Raises:
        ValueError: for an interval below 1.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import BehaviorCloningLoss, make_gaussian_actor
        >>> actor = make_gaussian_actor(state_dim=10, action_dim=4)
        >>> loss, monitor = BehaviorCloningLoss(actor), PhantomGradientMonitor(actor, interval=2)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.arange(8.0)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> for _ in range(2):
        ...     loss(batch)["loss_actor"].backward()
        ...     seen = monitor(batch)
        ...     print(seen["negative_mass_ratio"] if seen else "not this time")
        tensor(1.)
        not this time
        >>> sorted(monitor.groups)
        ['log_sigma', 'mean']
    """

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        interval: int = 100,
        groups: Mapping[str, Sequence[str]] | None = None,
        baseline: Baseline = "mean",
        taper: Callable[[Tensor], Tensor] | None = None,
        remoteness: RemotenessKind = "auto",
        near: float | None = None,
        reward_key: NestedKey = ("next", "reward"),
        advantage_key: NestedKey = "advantage",
        action_key: NestedKey = "action",
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        # The signed loss knows how to read a batch; only its parts are used.
        self._rule = RepulsiveLoss(
            actor_network, baseline=baseline, remoteness=remoteness, functional=False
        )
        self._rule.set_keys(reward=reward_key, advantage=advantage_key, action=action_key)
        self.interval = interval
        self.taper = taper
        self.near = getattr(taper, "threshold", None) if near is None else near
        self.groups = _grouped(actor_network, groups)
        self.calls = 0

    def __call__(self, batch: TensorDictBase) -> dict[str, Tensor] | None:
        """Counts a step, and looks at its batch when it is time; otherwise ``None``."""
        self.calls += 1
        return self.probe(batch) if (self.calls - 1) % self.interval == 0 else None

    def probe(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Looks at a batch now.

        Args:
            batch: logged rows, ``[*B]``; left as they are.

        Returns:
            0-d tensors on the policy's device, detached. For each parameter group
            ``positive_gradient/<group>`` and ``negative_gradient/<group>`` (norms) and
            ``repulsion_to_attraction/<group>`` (their ratio); ``negative_mass_ratio`` (rho),
            ``effective_negative_mass_ratio`` and ``taper_active_fraction`` (under the taper),
            ``effective_sample_size`` (of the signed weights, in rows), ``negative_remoteness``
            (mean D of the negatives), and with a near field ``near_retention`` and
            ``far_retention`` (mean taper of near and far negatives).

        Raises:
            ValueError, KeyError: as a loss would, for a batch that it could not read.
        """
        rule, actor = self._rule, self._rule.actor_network
        _checks.check_shape(batch, "step", type(self).__name__)
        mask = _batch.valid_steps(batch, rule._loss_mask_keys(), batch.shape)
        with torch.no_grad():
            advantage = rule._advantage(batch, mask)
        parameters = [p for members in self.groups.values() for p in members]
        with torch.enable_grad(), _in_evaluation_mode(actor):
            inputs = rule._inputs(batch, None, mask)
            dist, log_prob = rule._log_prob(actor, inputs, mask)
            action = inputs.get(rule.tensor_keys.action)
            with torch.no_grad():
                distance, _ = remoteness_and_score(
                    dist,
                    action,
                    log_prob,
                    batch.shape,
                    rule.remoteness,
                    mask,
                    needed=self.taper is not None,
                )
                factor = torch.ones_like(distance) if self.taper is None else self.taper(distance)
                weight = signed_weights(advantage, factor)
            attraction = weighted_nll(log_prob, weight.clamp_min(0.0), mask)
            repulsion = weighted_nll(log_prob, weight.clamp_max(0.0), mask)
            attract, repel = (
                torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
                for part in (attraction, repulsion)
            )
        negative = advantage < 0
        found = self._compared(attract, repel)
        found["negative_mass_ratio"] = negative_mass_ratio(advantage)
        found["effective_negative_mass_ratio"] = negative_mass_ratio(weight)
        found["effective_sample_size"] = effective_sample_size(weight)
        found["taper_active_fraction"] = taper_active_fraction(factor, negative)
        count = negative.sum().clamp_min(1)
        found["negative_remoteness"] = torch.where(negative, distance, 0.0).sum() / count
        if self.near is not None:
            near, far = taper_retention(factor, distance, negative, threshold=self.near)
            found["near_retention"], found["far_retention"] = near, far
        return found

    def _compared(
        self, attract: Sequence[Tensor | None], repel: Sequence[Tensor | None]
    ) -> dict[str, Tensor]:
        """Norms and their ratio, group by group."""
        found, start = {}, 0
        for name, members in self.groups.items():
            part = slice(start, start + len(members))
            start += len(members)
            positive, negative = _norm(attract[part], members), _norm(repel[part], members)
            found[f"positive_gradient/{name}"] = positive
            found[f"negative_gradient/{name}"] = negative
            found[f"repulsion_to_attraction/{name}"] = negative / positive
        return found

    # -- as a hook of TorchRL's Trainer ---------------------------------------------------------

    def register(self, trainer: Any, name: str = "phantom_gradients") -> None:
        """Attaches the monitor: ``monitor.register(trainer)``.

        It looks at every ``interval``-th optimisation step's batch, after the step, and the
        trainer logs what it finds. Its counter is saved and loaded with the trainer.

        Args:
            trainer: a ``torchrl.trainers.Trainer``.
            name: the name that the counter is saved under.
        """
        trainer.register_op("post_optim_log", self._as_numbers)
        trainer.register_module(name, self)

    def _as_numbers(self, batch: TensorDictBase) -> dict[str, float] | None:
        found = self(batch)
        return None if found is None else {key: value.item() for key, value in found.items()}

    def state_dict(self) -> dict[str, int]:
        """The counter of calls."""
        return {"calls": self.calls}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Resumes the counter of calls."""
        self.calls = int(state_dict["calls"])


def _grouped(
    actor: nn.Module, groups: Mapping[str, Sequence[str]] | None
) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by group, empty groups left out."""
    named = [(name, p) for name, p in actor.named_parameters() if p.requires_grad]
    rest = "rest"
    if groups is None:
        gaussian = any(part in name for name, _ in named for part in _SPREAD_NAMES)
        groups, rest = {"log_sigma": _SPREAD_NAMES}, "mean" if gaussian else "policy"
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in named:
        group = next((g for g, parts in groups.items() if any(p in name for p in parts)), rest)
        found.setdefault(group, []).append(parameter)
    return found


def _norm(gradients: Sequence[Tensor | None], members: Sequence[nn.Parameter]) -> Tensor:
    """Norm of a group's gradient, in float32 or better; a parameter that was not used counts 0."""
    squares = [g.float().square().sum() for g in gradients if g is not None]
    return torch.stack(squares).sum().sqrt() if squares else members[0].new_zeros(())


@contextmanager
def _in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """No dropout and no running statistics while looking; every module gets its mode back."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
