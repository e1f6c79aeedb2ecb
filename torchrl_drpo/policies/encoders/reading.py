"""What every policy that reads histories has in common: items looked up, and an encoder asked."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.policies.encoders.history import HistoryEncoder
from torchrl_drpo.policies.encoders.observations import observation_inputs


class HistoryReader(nn.Module):
    """Item numbers, context and features to states.

    Whoever derives from it sets ``encoder`` and says in :meth:`embed` what an item looks like.

    Attributes:
        encoder: what reads embedded histories; fit its scalers before training.
    """

    encoder: HistoryEncoder

    @property
    def context_columns(self) -> int:
        """Number of context columns that it reads."""
        return len(self.encoder.context)

    @property
    def num_features(self) -> int:
        """Number of numeric features that it reads."""
        return 0 if self.encoder.scaler is None else len(self.encoder.scaler.mean)

    def embed(self, item: Tensor) -> Tensor:
        """Embeddings ``[*, D]`` of items ``[*]`` in ``[0, V)``."""
        raise NotImplementedError

    def forward(
        self,
        history: Tensor,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
    ) -> Tensor:
        """The state ``[*B, D]`` after a history, in a context, of numeric features.

        Args:
            history: item numbers, int64 ``[*B, L]``, oldest first; -1 pads.
            context: ids, int64 ``[*B, C]``; ``None`` without context columns.
            features: raw numbers, ``[*B, F]``; ``None`` without features.
            times: ticks of the history's rows, int64 ``[*B, L]``; where the encoder reads them.
            feedback: quality of the history's rows, ``[*B, L]``; where the encoder reads it.
        """
        embedded = self.embed(history.clamp(min=0))
        return self.encoder(embedded, history >= 0, context, features, times, feedback)

    def places(
        self, history: Tensor, times: Tensor | None = None, feedback: Tensor | None = None
    ) -> Tensor:
        """What histories of the first 0, 1, ..., L items become, ``[*B, L + 1, D]``, in one pass.

        See :meth:`HistoryEncoder.places`; ``encoder.finish`` makes states of them.
        """
        embedded = self.embed(history.clamp(min=0))
        return self.encoder.places(embedded, history >= 0, times, feedback)

    def usual_features(self) -> Tensor | None:
        """What to give for features that are not known: the training rows' mean ``[F]``."""
        scaler = self.encoder.scaler
        return None if scaler is None else scaler.mean

    def usual_feedback(self) -> Tensor | None:
        """What to give for a past row of unknown quality: the training rows' mean ``[1]``."""
        scaler = self.encoder.feedback_scaler
        return None if scaler is None else scaler.mean


def item_actor(
    policy: HistoryReader, context_sizes: Sequence[int], num_features: int, **keys: NestedKey
) -> ProbabilisticActor:
    """The actor of a policy over items: writes ``hidden`` and ``action``.

    Args:
        policy: whose ``distribution`` makes distributions over items of states.
        context_sizes: none, and no context is read.
        num_features: none, and no features are read.
        **keys: where rows have what, by the names of the policy's arguments.
    """
    # By name: features without a context are the policy's third argument and the second entry.
    inputs = observation_inputs(policy.encoder.config, context_sizes, num_features, **keys)
    return ProbabilisticActor(
        # Strict, since a missing entry would reach the policy as None and fail there unnamed.
        TensorDictModule(policy, in_keys=inputs, out_keys=["hidden"], strict=True),
        in_keys=["hidden"],
        out_keys=["action"],
        distribution_class=policy.distribution,
    )
