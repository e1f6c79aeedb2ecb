"""The Gaussian policy over item embeddings: pi(a | s) = N(mu(s), diag(sigma^2))."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torchrl.modules import IndependentNormal, ProbabilisticActor
from torchrl_drpo_kernels import gaussian_log_prob

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.policies.encoders import EncoderConfig, ObservationEncoder

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalNormal(IndependentNormal):
    r"""A normal distribution over vectors with independent entries.

    TorchRL's ``IndependentNormal`` with the density written through :math:`z = (a - \mu)/\sigma`:
    :math:`\log p(a) = -\sum_j (z_j^2 / 2 + \log\sigma_j) - (d/2) \log 2\pi`. Few passes over
    ``[*B, d]`` forward and back make a whole training step about a fifth shorter (N = 320, d = 128,
    one core), the most where one ``[d]`` row of sigma serves every state: give it as that row.

    Args:
        loc: mean, shape ``[*B, d]``, of at least one dimension.
        scale: standard deviation, positive, broadcastable to ``[*B, d]``.

    Raises:
        ValueError: if ``loc`` is a single number.

    Examples:
        >>> import torch
        >>> dist = DiagonalNormal(torch.zeros(2, 3), torch.ones(3))
        >>> dist.log_prob(torch.zeros(2, 3))
        tensor([-2.7568, -2.7568])
        >>> dist.batch_shape, dist.event_shape
        (torch.Size([2]), torch.Size([3]))
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        # What IndependentNormal(loc, scale) comes to; the pieces that a density does not need are
        # made when they are asked for.
        if loc.ndim == 0:
            raise ValueError("loc must have shape [*B, d], got a single number")
        self.tanh_loc, self.upscale, self._event_dim, self._kwargs = False, 5.0, 1, {}
        self.reinterpreted_batch_ndims = 1
        self._loc, self._scale = loc, scale
        Distribution.__init__(self, loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def update(self, loc: Tensor, scale: Tensor) -> None:
        """Takes other parameters, as TorchRL's distributions do.

        Args:
            loc: mean, shape ``[*B, d]``.
            scale: standard deviation, positive, broadcastable to ``[*B, d]``.
        """
        DiagonalNormal.__init__(self, loc, scale)

    @property
    def base_dist(self) -> Normal:
        """The normal distributions of the entries, of batch shape ``[*B, d]``."""
        return Normal(self._loc, self._scale, validate_args=False)

    @property
    def loc(self) -> Tensor:
        """Mean, shape ``[*B, d]``."""
        return self._loc

    @property
    def scale(self) -> Tensor:
        """Standard deviation, shape ``[*B, d]``."""
        return self._scale.expand_as(self._loc)

    @property
    def mean(self) -> Tensor:
        """Mean, shape ``[*B, d]``."""
        return self._loc

    @property
    def mode(self) -> Tensor:
        """Mode, which is the mean."""
        return self._loc

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, summed over the last dimension in float32 or better.

        Args:
            value: actions, shape ``[*B, d]``.

        Returns:
            Shape ``[*B]``.
        """
        scale = self._compact_scale()
        z = value - self._loc
        # Dividing by a tensor costs four passes over [*B, d] more in the backward. The reciprocal
        # is that of one row; of a whole [*B, d] it would cost as much.
        z = z * scale.reciprocal() if scale.ndim == 1 else z / scale
        wide = torch.promote_types(z.dtype, torch.float32)
        quadratic = (z * z).sum(-1, dtype=wide)
        return torch.sub(self._log_peak(scale, wide), quadratic, alpha=0.5)

    def squared_distance(self, log_prob: Tensor) -> Tensor:
        r"""The :math:`\sum_j z_j^2` of actions, from their log-density and not from ``[*B, d]``.

        Exact to the rounding of the log-density.

        Args:
            log_prob: what :meth:`log_prob` gave, shape ``[*B]``.

        Returns:
            At least 0, shape ``[*B]``.

        Examples:
            >>> import torch
            >>> dist = DiagonalNormal(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
            >>> dist.squared_distance(dist.log_prob(torch.tensor([[3.0, 8.0]])))
            tensor([25.])
        """
        peak = self._log_peak(self._compact_scale(), log_prob.dtype)
        return (2.0 * (peak - log_prob)).clamp_min(0.0)

    def _log_peak(self, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """The log-density at the mean, for one row of sigma or for each."""
        return torch.rsub(scale.log().sum(-1, dtype=dtype), -self._event_shape[0] * _HALF_LOG_2PI)

    def _compact_scale(self) -> Tensor:
        """The one row ``[d]`` that serves every state, or the scale of each.

        Logarithms of d entries instead of N d, forward and backward: a third of a policy's step
        when sigma does not depend on the state (N = 320, d = 128, one core).
        """
        scale = self._scale
        if scale.shape[-1:] != self.event_shape:
            scale = self.scale
        batch = scale.stride()[:-1]
        if batch and scale.numel() and not any(batch):
            return scale[(0,) * len(batch)]
        return scale

    def leading_log_prob(self, value: Tensor, n_rows: Tensor) -> Tensor:
        """Log-density of the first ``n_rows`` rows of a flat batch, zero for those behind.

        Args:
            value: actions, shape ``[N, d]``.
            n_rows: one integer on the device; it is not read back.

        Returns:
            Shape ``[N]``.
        """
        loc, log_std = self._loc, self._compact_scale().log()
        every = torch.arange(loc.shape[0], device=loc.device)
        return gaussian_log_prob(loc, log_std, value, every, n_rows)[0]


class GaussianHead(nn.Module):
    r"""State -> (mean, standard deviation); :math:`\log\sigma` does not depend on the state.

    ``log_std`` is one parameter of ``action_dim`` entries. It enters clamped to
    ``log_std_bounds``; at a value beyond a bound its gradient is zero.

    Args:
        state_dim: entries of a state, at least 1.
        action_dim: entries of an action, at least 1.
        hidden: widths of the ReLU layers; ``()`` gives a linear mean.
        log_std_init: initial log standard deviation, within the bounds.
        log_std_bounds: lowest and highest log standard deviation.
        device: where the parameters are made.
        dtype: floating-point type of the parameters.

    Raises:
        ValueError: if a width is below 1 or ``log_std_init`` lies outside its bounds.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        *,
        hidden: Sequence[int] = (128,),
        log_std_init: float = 0.0,
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        widths = [state_dim, *hidden, action_dim]
        names = ["state_dim", *(f"hidden[{i}]" for i in range(len(hidden))), "action_dim"]
        for name, width in zip(names, widths, strict=True):
            check_positive(name, width)
        low, high = log_std_bounds
        if not low <= log_std_init <= high:
            raise ValueError(
                f"log_std_init must lie within log_std_bounds [{low}, {high}], got {log_std_init}"
            )
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out, device=device, dtype=dtype), nn.ReLU()]
        self.mean = nn.Sequential(*layers[:-1])
        self.log_std = nn.Parameter(torch.empty(action_dim, device=device, dtype=dtype))
        self.log_std_init = float(log_std_init)
        self.log_std_bounds = (float(low), float(high))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes log sigma what it was at first; the mean's layers do so themselves."""
        nn.init.constant_(self.log_std, self.log_std_init)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``loc`` and ``scale``, each ``[*B, d]``; ``scale`` is an expanded view."""
        loc, scale = self.compact(state)
        return loc, scale.expand_as(loc)

    def compact(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``loc``, ``[*B, d]``, and the one row of ``scale``, ``[d]``.

        The gradient of an expanded ``[*B, d]`` has to be written and added up again.
        """
        return self.mean(state), self.log_std.clamp(*self.log_std_bounds).exp()


def make_gaussian_actor(
    state_dim: int,
    action_dim: int,
    *,
    hidden: Sequence[int] = (128,),
    log_std_init: float = 0.0,
    log_std_bounds: tuple[float, float] = (-5.0, 2.0),
    in_key: NestedKey = "observation",
    action_key: NestedKey = "action",
    return_log_prob: bool = False,
    default_interaction_type: InteractionType = InteractionType.RANDOM,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    encoder: EncoderConfig | Mapping[str, Any] | None = None,
    num_items: int | None = None,
    history: int = 20,
    context_sizes: Sequence[int] = (),
    num_features: int = 0,
) -> ProbabilisticActor:
    r"""A Gaussian policy as a TorchRL actor: reads a state, writes ``loc``, ``scale``, ``action``.

    The mean is an MLP; :math:`\log\sigma` is one parameter vector of ``action_dim`` entries,
    independent of the state. The defaults are the network of arXiv 2602.10430 (appendix):
    state -> 128 ReLU -> action.

    ``actor.get_dist(td)`` returns a :class:`DiagonalNormal`. A plain call samples; under
    ``set_exploration_type(ExplorationType.DETERMINISTIC)`` it returns the mean. The initial
    weights are drawn from torch's global generator, as ``torch.nn`` does.

    Args:
        state_dim: entries of a state, at least 1.
        action_dim: entries of an action, at least 1.
        hidden: widths of the ReLU layers; ``()`` gives a linear mean.
        log_std_init: initial log standard deviation, within the bounds.
        log_std_bounds: lowest and highest log standard deviation; clamped to.
        in_key: entry that holds the state, ``[*B, state_dim]``.
        action_key: entry that receives the action, ``[*B, action_dim]``.
        return_log_prob: whether to write ``<action_key>_log_prob`` as well.
        default_interaction_type: what a plain call does outside ``set_exploration_type``.
        device: where the parameters are made.
        dtype: floating-point type of the parameters.
        encoder: what makes states of a user's recent items: the actor then reads rows of a log
            (``("observation", "history")`` and what else the encoder reads) instead of
            ``in_key``, and ``state_dim`` is the width of item embeddings and states. Its
            :class:`~torchrl_drpo.policies.ObservationEncoder` is the actor's first module.
        num_items: size of the catalogue that histories are of; with an encoder alone.
        history: longest history that the encoder will be given.
        context_sizes: number of values of each context column that it reads.
        num_features: number of numeric features that it reads.

    Returns:
        A ``ProbabilisticActor``; its parameters are those of one :class:`GaussianHead`, and of
        the encoder where there is one.

    Raises:
        ValueError: if a width is below 1, ``log_std_init`` lies outside its bounds, or an encoder
            is given without ``num_items``, or the other way round.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> actor = make_gaussian_actor(10, 128)
        >>> td = actor(TensorDict({"observation": torch.randn(4, 10)}, [4]))
        >>> td["action"].shape, td["scale"].unique()
        (torch.Size([4, 128]), tensor([1.], grad_fn=...))
        >>> actor.get_dist(td).log_prob(td["action"]).shape
        torch.Size([4])
        >>> actor = make_gaussian_actor(
        ...     16, 128, encoder=EncoderConfig("gru"), num_items=1_000, history=3
        ... )
        >>> td = TensorDict({"observation": {"history": torch.tensor([[-1, 7, 42]])}}, [1])
        >>> actor(td)["action"].shape
        torch.Size([1, 128])
    """
    if (encoder is None) != (num_items is None):
        raise ValueError(
            "an encoder reads items, so encoder= and num_items= go together, got encoder="
            f"{encoder!r} and num_items={num_items!r}"
        )
    head = GaussianHead(
        state_dim,
        action_dim,
        hidden=hidden,
        log_std_init=log_std_init,
        log_std_bounds=log_std_bounds,
        device=device,
        dtype=dtype,
    )
    module = TensorDictModule(head, in_keys=[in_key], out_keys=["loc", "scale"])
    if encoder is not None and num_items is not None:
        reader = ObservationEncoder(
            num_items,
            state_dim,
            history=history,
            encoder=encoder,
            context_sizes=context_sizes,
            num_features=num_features,
            device=device,
        ).to(dtype)
        module = TensorDictSequential(
            TensorDictModule(reader, in_keys=reader.inputs, out_keys=["hidden"], strict=True),
            TensorDictModule(head, in_keys=["hidden"], out_keys=["loc", "scale"]),
        )
    return ProbabilisticActor(
        module,
        in_keys=["loc", "scale"],
        out_keys=[action_key],
        distribution_class=DiagonalNormal,
        return_log_prob=return_log_prob,
        default_interaction_type=default_interaction_type,
    )
