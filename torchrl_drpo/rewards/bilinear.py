r"""A reward model in closed form: kernel features of the state times the action, by ridge.

.. math:: \hat Q(s, a) = \bar R + \phi(s)^\top W\, [\,\hat a;\ \beta\,],
    \qquad \hat a = a / \|a\|

with Nystroem features :math:`\phi` of an RBF kernel on states. It is the two-tower model of
recommendation with a kernel machine for the user's tower: what a user wants is a smooth function
of the state, and an item is worth its inner product with it. Its slope in the action is what
:class:`~torchrl_drpo.GuidedLoss` follows. On small noisy logs (thousands of rows, a reward noise
as large as the rewards' spread) it predicts far better than a network of the same inputs.

Notation   N rows, p state entries, d action entries, m landmarks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_drpo.functional.checks import check_finite, check_positive
from torchrl_drpo.functional.precision import at_least_float32
from torchrl_drpo.functional.reductions import centred

#: Ridges that :func:`fit_bilinear_reward` chooses among, in units of the kernel's diagonal.
RIDGES = (1.0, 3.0, 10.0, 30.0)
_BIAS = 0.5  # beta: how strongly the state alone may explain a reward
_ITERATIONS = 30  # of conjugate gradients, each a pass over the rows
_JITTER = 1e-3


class BilinearReward(nn.Module):
    """A fitted model; everything is a buffer.

    Args:
        landmarks: states that span the features, ``[m, p]``.
        whitening: inverse Cholesky factor of their kernel matrix, ``[m, m]``.
        weight: W, ``[m, d + 1]``.
        offset: mean reward, 0-d.
        lengthscale: of the kernel, 0-d.
        ridge: that the weight was fitted with, 0-d.

    Examples:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> state = torch.randn(500, 3, generator=g)
        >>> action = torch.randn(500, 3, generator=g)
        >>> reward = torch.cosine_similarity(state, action)
        >>> model = fit_bilinear_reward(state, action, reward)
        >>> new = torch.eye(3)
        >>> model(new, new).min() > model(new, -new).max()
        tensor(True)
        >>> model.slope(new).shape
        torch.Size([3, 3])
    """

    landmarks: Tensor
    whitening: Tensor
    weight: Tensor
    offset: Tensor
    lengthscale: Tensor
    ridge: Tensor

    def __init__(
        self,
        landmarks: Tensor,
        whitening: Tensor,
        weight: Tensor,
        offset: Tensor,
        lengthscale: Tensor,
        ridge: Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("landmarks", landmarks)
        self.register_buffer("whitening", whitening)
        self.register_buffer("weight", weight)
        self.register_buffer("offset", offset)
        self.register_buffer("lengthscale", lengthscale)
        self.register_buffer("ridge", ridge)

    @classmethod
    def empty(cls, landmarks: int, state_dim: int, action_dim: int) -> BilinearReward:
        """One of zeros, to load a saved state of these sizes into."""
        return cls(
            torch.zeros(landmarks, state_dim),
            torch.zeros(landmarks, landmarks),
            torch.zeros(landmarks, action_dim + 1),
            *(torch.zeros(()) for _ in range(3)),
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Predicted reward.

        Args:
            observation: states, ``[*B, p]``.
            action: ``[*B, d]``; only its direction counts.

        Returns:
            Shape ``[*B]``.
        """
        return self.judge(observation, action)[0]

    def judge(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction and its slope, from one pass over the state's features.

        Args:
            observation: states, ``[*B, p]``.
            action: ``[*B, d]``; only its direction counts.

        Returns:
            What :meth:`forward` and :meth:`slope` give, ``[*B]`` and ``[*B, d]``.
        """
        taste = self._features(observation) @ self.weight
        match = (taste[..., :-1] * _direction(action)).sum(-1)
        return self.offset + match + _BIAS * taste[..., -1], taste[..., :-1]

    def slope(self, observation: Tensor) -> Tensor:
        """What the state wants: the slope of the prediction in the action's direction.

        Args:
            observation: states, ``[*B, p]``.

        Returns:
            Shape ``[*B, d]``.
        """
        return (self._features(observation) @ self.weight)[..., :-1]

    def _features(self, observation: Tensor) -> Tensor:
        if observation.ndim == 1:  # a single state, which cdist does not take
            return self._features(observation.unsqueeze(0)).squeeze(0)
        kernel = _rbf(observation, self.landmarks, self.lengthscale)
        return kernel @ self.whitening.T


def fit_bilinear_reward(
    observation: Tensor,
    action: Tensor,
    reward: Tensor,
    *,
    landmarks: int = 96,
    lengthscale: float | None = None,
    ridge: float | None = None,
    seed: int = 0,
) -> BilinearReward:
    """Fits the model to logged rows: one linear system, solved by conjugate gradients.

    Args:
        observation: states, ``[N, p]``.
        action: ``[N, d]``.
        reward: ``[N]``, finite.
        landmarks: m, at most N of them are used; the time grows with N m d.
        lengthscale: of the kernel on states; ``None`` for .7 of their median distance.
        ridge: strength of the regularisation; ``None`` chooses among ``RIDGES`` by the squared
            error on a fifth of the rows, and then fits all rows.
        seed: of the landmarks and of that fifth.

    Returns:
        The model, on the device of the rows.

    Raises:
        ValueError: for shapes that differ, rows that are not finite, or numbers out of range.

    Examples:
        A model of all rows, to judge new ones with; for the rows of the log itself use
        :func:`~torchrl_drpo.rewards.cross_fit_bilinear`.

        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> state, action = torch.randn(500, 3, generator=g), torch.randn(500, 3, generator=g)
        >>> model = fit_bilinear_reward(state, action, torch.cosine_similarity(state, action))
        >>> model(torch.eye(3), torch.eye(3)).shape, model.ridge
        (torch.Size([3]), tensor(1.))
    """
    observation, action, reward = checked_rows(observation, action, reward)
    check_positive("landmarks", landmarks)
    for name, value in (("lengthscale", lengthscale), ("ridge", ridge)):
        if value is not None:
            check_positive(name, value)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(reward), generator=generator).to(reward.device)
    centres = observation[order[:landmarks]]
    if lengthscale is None:
        scale = _typical_distance(centres[:512]).to(reward)
    else:
        scale = reward.new_tensor(lengthscale)
    whitening = _whitening(centres, scale)
    features = _rbf(observation, centres, scale) @ whitening.T
    tail = torch.full_like(reward.unsqueeze(-1), _BIAS)
    match = torch.cat([_direction(action), tail], -1)
    target = centred(reward)
    if ridge is None:
        ridge = _chosen_ridge(features[order], match[order], target[order])
    weight = _solve(features, match, target, ridge)
    penalty = reward.new_tensor(ridge)
    return BilinearReward(centres.clone(), whitening, weight, reward.mean(), scale, penalty)


def _whitening(centres: Tensor, lengthscale: Tensor) -> Tensor:
    """Inverse Cholesky factor of the landmarks' kernel matrix."""
    one = torch.eye(len(centres)).to(centres)
    factor = torch.linalg.cholesky(_rbf(centres, centres, lengthscale) + _JITTER * one)
    return torch.linalg.solve_triangular(factor, one, upper=False)


def _chosen_ridge(features: Tensor, match: Tensor, target: Tensor) -> float:
    """The ridge with the smallest squared error on the last fifth of the rows."""
    held = max(1, len(target) // 5)
    errors = []
    for ridge in RIDGES:
        weight = _solve(features[:-held], match[:-held], target[:-held], ridge)
        predicted = ((features[-held:] @ weight) * match[-held:]).sum(-1)
        errors.append((predicted - target[-held:]).square().mean())
    return RIDGES[int(torch.stack(errors).argmin())]


def _solve(features: Tensor, match: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Minimises ``sum((phi W . x - y)^2) + ridge |W|^2`` without ever forming phi times x."""

    def normal(weight: Tensor) -> Tensor:
        fitted = ((features @ weight) * match).sum(-1, keepdim=True)
        return features.T @ (fitted * match) + ridge * weight

    residual = features.T @ (target.unsqueeze(-1) * match)
    weight, direction = torch.zeros_like(residual), residual.clone()
    energy = residual.square().sum()
    start = energy
    for _ in range(_ITERATIONS):
        image = normal(direction)
        step = energy / (direction * image).sum().clamp_min(torch.finfo(energy.dtype).tiny)
        weight = weight + step * direction
        residual = residual - step * image
        fresh = residual.square().sum()
        direction = residual + fresh / energy.clamp_min(torch.finfo(energy.dtype).tiny) * direction
        energy = fresh
        if energy <= 1e-10 * start:
            break
    return weight


def _typical_distance(centres: Tensor) -> Tensor:
    """.7 of the median distance; where most states coincide, of those that differ."""
    distance = torch.pdist(centres)
    if distance.numel() == 0 or distance.max() == 0:
        return torch.ones(())
    median = distance.median()
    return 0.7 * (median if median > 0 else distance[distance > 0].median())


def _rbf(x: Tensor, y: Tensor, lengthscale: Tensor) -> Tensor:
    # By a product whatever the sizes: what torch would choose by them, a graph could not hold.
    distance = torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")
    return torch.exp(-distance.square() / (2.0 * lengthscale.square()))


def _direction(action: Tensor) -> Tensor:
    return torch.nn.functional.normalize(action, dim=-1)


def checked_rows(
    observation: Tensor, action: Tensor, reward: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows in float32 or wider, once they are known to be some that a model can be fitted to.

    Raises:
        ValueError: for shapes that differ, fewer than two rows, or rows that are not finite.
    """
    n = reward.shape[0] if reward.ndim == 1 else -1
    if observation.ndim != 2 or action.ndim != 2 or len(observation) != n or len(action) != n:
        raise ValueError(
            "expected observation [N, p], action [N, d] and reward [N], got "
            f"{tuple(observation.shape)}, {tuple(action.shape)} and {tuple(reward.shape)}"
        )
    if n < 2:
        raise ValueError(f"a reward model needs at least 2 rows, got {n}")
    for name, rows in (("observation", observation), ("action", action), ("reward", reward)):
        check_finite(name, rows, hint="drop these rows")
    return at_least_float32(observation), at_least_float32(action), at_least_float32(reward)
