r"""Uphill at serving: a Gaussian policy over item vectors times a critic, in closed form.

For a critic that is linear in the action, :math:`Q(s, a) = u(s)^\top a + v(s)`, the tilted policy
of :mod:`torchrl_drpo.policies.tilted` is the same Gaussian with another mean:

.. math:: \mathcal N(a;\, \mu, \sigma^2)\, \exp(Q / \tau)
    \;\propto\; \mathcal N(a;\, \mu + \sigma^2 u / \tau,\, \sigma^2).

So the mean moves along what the critic says the state wants. A
:class:`~torchrl_drpo.rewards.BilinearReward` is linear in the action's direction, and u its slope.
How far is told in units that do not depend on how wide a policy came out of training: a step
:math:`\eta` moves the mean by :math:`\eta\, \|a\|\, u / \overline{\|u\|}`, with the mean length of
the log's slopes; it is what :func:`~torchrl_drpo.rewards.uphill_actions` does to logged actions
before training. Nothing is trained twice, and the step may be set at any time.

Notation   B batch shape, V items, D entries of an item vector, p of a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.policies.retrieval import RetrievalPolicy, retrieval_actor, retrieval_policy


class UphillPolicy(RetrievalPolicy):
    """A retrieval policy whose mean is moved up a critic's slope; see :func:`make_uphill_actor`.

    Attributes:
        critics: modules with ``slope(state [*B, p])``, ``[*B, D]``, of which the mean is taken.
        typical: mean length of the log's slopes, 0-d.
        uphill_step: at least 0; it may be set at any time.
    """

    typical: Tensor

    def __init__(
        self, policy: RetrievalPolicy, critics: Sequence[nn.Module], typical: float, step: float
    ) -> None:
        nn.Module.__init__(self)  # all parts are those of the policy inside, and none is copied
        if not critics:
            raise ValueError("a policy moves up the slope of at least one critic, got none")
        check_positive("typical", typical)
        self.temperature, self.bias, self.inputs = policy.temperature, policy.bias, policy.inputs
        self.state, self.head = policy.state, policy.head
        self.register_buffer("items", policy.items)
        self.critics = nn.ModuleList(critics)
        self.register_buffer("typical", torch.tensor(float(typical)))
        self.uphill_step = step

    @property
    def uphill_step(self) -> float:
        """How far the mean moves, in units of the actions' norm, at a slope of typical length."""
        return self._step

    @uphill_step.setter
    def uphill_step(self, value: float) -> None:
        if not 0 <= value < float("inf"):
            raise ValueError(f"uphill_step must be a finite number of at least 0, got {value}")
        self._step = float(value)

    def forward(self, *observed: Tensor) -> Tensor:
        """The direction ``[*B, D]`` of the moved mean; see :meth:`RetrievalPolicy.forward`."""
        state = self.states(**dict(zip(self.inputs, observed, strict=True)))
        slope = torch.stack([critic.slope(state) for critic in self.critics]).mean(0)
        size = self.items.shape[1] ** 0.5  # of actions, as action_vectors gives them
        return unit(self.head.mean(state) + self.uphill_step * size / self.typical * slope)


def make_uphill_actor(
    actor: ProbabilisticActor,
    critics: nn.Module | Sequence[nn.Module],
    *,
    typical: float,
    step: float = 0.3,
) -> ProbabilisticActor:
    """The actor that serves a trained policy's mean moved up a critic's slope.

    Args:
        actor: of :func:`~torchrl_drpo.policies.retrieval.make_retrieval_actor`, trained; not
            copied.
        critics: a :class:`~torchrl_drpo.rewards.BilinearReward` of the policy's own states and
            actions, or several, such as those of one cross-fit, whose mean slope is taken.
        typical: mean length of their slopes over the log.
        step: how far the mean moves, in units of the actions' norm.

    Returns:
        An actor that reads what ``actor`` reads; its distribution is a
        :class:`~torchrl_drpo.CatalogueCategorical`.

    Raises:
        TypeError: for an actor of another kind.
        ValueError: for no critic, numbers out of range, or an actor that is moved uphill already.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo.policies.retrieval import VectorRows, make_retrieval_actor
        >>> from torchrl_drpo.rewards import fit_bilinear_reward
        >>> g = torch.Generator().manual_seed(0)
        >>> vectors = torch.randn(20, 4, generator=g)
        >>> actor = make_retrieval_actor(20, 4, item_vectors=vectors, history=1)
        >>> rows = TensorDict({"action": torch.randint(20, (90,), generator=g)}, [90])
        >>> rows["observation", "history"] = torch.randint(20, (90, 1), generator=g)
        >>> log = VectorRows(retrieval_policy(actor))(rows.clone())
        >>> critic = fit_bilinear_reward(log["state"], log["action"], torch.rand(90, generator=g))
        >>> typical = critic.slope(log["state"]).norm(dim=-1).mean().item()
        >>> uphill = make_uphill_actor(actor, critic, typical=typical)
        >>> uphill.get_dist(rows).probs.shape
        torch.Size([90, 20])
        >>> retrieval_policy(uphill).uphill_step = 0.0  # as it was trained
        >>> bool((uphill.get_dist(rows).probs == actor.get_dist(rows).probs).all())
        True
    """
    policy = retrieval_policy(actor)
    if isinstance(policy, UphillPolicy):
        raise ValueError(
            "the actor's mean is moved by critics already; set its policy's uphill_step, or give "
            "the actor that was trained and all critics together"
        )
    several = [critics] if isinstance(critics, nn.Module) else list(critics)
    return retrieval_actor(UphillPolicy(policy, several, typical, step))
