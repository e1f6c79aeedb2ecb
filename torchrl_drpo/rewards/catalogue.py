r"""A cross-fitted reward model over a catalogue, which scores all items at once.

A row of all V predictions is one product with the item table, which a softmax policy forms for
itself anyway: so its expected reward is *exact*, where draws from a catalogue would be noise, and
its tilt by this model is one more inner product.

Notation   B batch shape, n rows, V items, K members, D width of their towers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.rewards.cross_fit import CrossFittedReward
from torchrl_drpo.rewards.towers import STATE, TwoTowerReward

#: Numbers of a ``[rows, V]`` block of predictions: 64 MiB of float32.
PREDICTIONS_AT_A_TIME = 2**24


class CatalogueReward(CrossFittedReward):
    """Cross-fitted two-tower models; :meth:`CatalogueReward.fit` makes one.

    A :class:`~torchrl_drpo.CrossFittedReward` that also gives :class:`~torchrl_drpo.GuidedLoss` the
    exact expectation under a :class:`~torchrl_drpo.CatalogueCategorical`, and, as a
    :class:`~torchrl_drpo.policies.tilted.Critic`, what a policy is tilted by.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo.rewards.regression import StandardisedReward
        >>> from torchrl_drpo.rewards.towers import two_tower_module
        >>> members = [StandardisedReward(two_tower_module(5, dim=4, history=3)) for _ in range(2)]
        >>> model = CatalogueReward(members)
        >>> history = torch.tensor([[-1, 0, 2], [-1, -1, -1]])
        >>> differ = model.queries(history) @ model.item_vectors().T + model.item_bias()
        >>> rows = TensorDict({"observation": {"history": history}}, [2])
        >>> every = model.predict_all(rows)
        >>> torch.allclose(differ - differ[:, :1], every - every[:, :1], atol=1e-6)
        True
    """

    @property
    def num_items(self) -> int:
        """Size V of the catalogue."""
        return len(self._networks[0].items)

    @property
    def num_features(self) -> int:
        """Number of numeric features that it reads."""
        scaler = self._networks[0].encoder.scaler
        return 0 if scaler is None else len(scaler.mean)

    @property
    def context_columns(self) -> int:
        """Number of context columns that it reads."""
        return len(self._networks[0].encoder.context)

    def queries(
        self, history: Tensor, context: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """What states prefer, ``[*B, K D]``: the mean prediction's items are told apart by it.

        The mean of the members at an item is this times the item's vector, plus the item's bias,
        plus what the state alone is worth; for rows that no member has seen.

        Args:
            history: item numbers, int64 ``[*B, L]``, -1 pads.
            context: ``[*B, C]``; ``None`` without context columns.
            features: ``[*B, F]``; ``None`` without features.
        """
        parts = [
            share * network.state(history, context, features)
            for share, network in zip(self._shares, self._networks, strict=True)
        ]
        return torch.cat(parts, -1)

    def item_vectors(self) -> Tensor:
        """Items side by side of all members, ``[V, K D]``."""
        return torch.cat([network.items for network in self._networks], -1)

    def item_bias(self) -> Tensor:
        """What an item is worth to everybody, ``[V]``."""
        bias = zip(self._shares, (network.bias for network in self._networks), strict=True)
        return torch.stack([share * each for share, each in bias]).sum(0)

    @property
    def _networks(self) -> list[TwoTowerReward]:
        return [member.network.module for member in self.members]

    @property
    def _shares(self) -> list[Tensor]:
        """What a member's standardised prediction counts in the mean of all, in reward's units."""
        return [member.std / len(self.members) for member in self.members]

    def predict_all(self, tensordict: TensorDictBase) -> Tensor:
        """Predictions for all items at each row, ``[n, V]`` for rows of batch size ``[n]``."""
        fold = tensordict.get(self.fold_key, None)
        if fold is None:
            fold = torch.full(tensordict.shape, -1, device=tensordict.device)
        fold = self._checked(fold.reshape(-1))
        inputs = {name: tensordict.get(key) for name, key in STATE.items() if key in self.in_keys}
        out: Tensor | None = None
        for member, mine in self._own_rows(fold):
            mine_alone = {name: entry[mine] for name, entry in inputs.items()}
            own = member.network.module.every(**mine_alone)
            own = torch.addcmul(member.mean, member.std, own)
            out = own.new_zeros(len(fold), own.shape[1]) if out is None else out
            if (fold >= 0).all():
                out[mine] = own
            else:  # all members speak of a row that is new to them
                share = torch.where(fold[mine] < 0, 1 / len(self.members), 1.0)
                out[mine] += share.unsqueeze(-1) * own
        assert out is not None  # there are rows
        return out

    def expected_reward(self, tensordict: TensorDictBase, dist: Distribution) -> Tensor:
        """The policy's expected prediction at each row, exact, ``[*B]``.

        Differentiable in the policy and not in this model. Where the rows' predictions would not
        fit the memory that ``PREDICTIONS_AT_A_TIME`` allows, they are made block by block, and
        once more in the backward pass.

        Args:
            tensordict: rows with this model's inputs, but for the action.
            dist: the policy at these rows.

        Raises:
            TypeError: for a policy that is not over a catalogue.
        """
        if not isinstance(dist, CatalogueCategorical):
            raise TypeError(
                "a catalogue's reward model needs a CatalogueCategorical policy, got "
                f"{type(dist).__name__}"
            )
        rows = tensordict.select(*self.in_keys, self.fold_key, strict=False).reshape(-1)
        hidden = dist.hidden.reshape(len(rows), -1)
        size = max(1, PREDICTIONS_AT_A_TIME // dist.num_items)

        def expected(start: int, block: Tensor) -> Tensor:
            part = CatalogueCategorical(block, dist.items, dist.bias, dist.temperature)
            with torch.no_grad():
                value = self.predict_all(rows[start : start + size])
            return (part.probs * value).sum(-1)

        if len(rows) <= size:
            return expected(0, hidden).reshape(dist.batch_shape)
        parts = [
            checkpoint(expected, start, block, use_reentrant=False, preserve_rng_state=False)
            for start, block in zip(range(0, len(rows), size), hidden.split(size), strict=True)
        ]
        return torch.cat(parts).reshape(dist.batch_shape)

    def tiles(self, tensordict: TensorDictBase) -> Callable[[slice], Callable[[slice], Tensor]]:
        """Predictions by rows and tiles of items: :meth:`predict_all` that never exists as a whole.

        Args:
            tensordict: rows of batch size ``[n]``.

        Returns:
            From some of the rows to a function from some items to predictions ``[rows, items]``.
        """
        fold = tensordict.get(self.fold_key, None)
        if fold is None:
            fold = torch.full(tensordict.shape, -1, device=tensordict.device)
        fold = self._checked(fold.reshape(-1))
        inputs = {name: tensordict.get(key) for name, key in STATE.items() if key in self.in_keys}
        states, shares, base = [], [], torch.zeros(())
        for number, member in enumerate(self.members):
            network = member.network.module
            state = network.state(**inputs)
            share = torch.where(fold < 0, 1 / len(self.members), (fold == number).float())
            base = base + share * (member.mean + member.std * network.value(state).squeeze(-1))
            shares.append(share * member.std)
            states.append(state * shares[-1].unsqueeze(-1))
        # Members are summed by one product: each item's rows of all of them, side by side.
        state, share = torch.cat(states, -1), torch.stack(shares, -1)
        networks = self._networks

        def of_rows(mine: slice) -> Callable[[slice], Tensor]:
            def of_items(items: slice) -> Tensor:
                table = torch.cat([network.items[items] for network in networks], -1)
                bias = torch.stack([network.bias[items] for network in networks], -1)
                out = torch.addmm(base[mine].unsqueeze(-1), state[mine], table.T)
                return out.addmm_(share[mine], bias.T)

            return of_items

        return of_rows

    def _own_rows(self, fold: Tensor) -> Iterator[tuple[TensorDictModuleBase, Tensor]]:
        """Members, and the rows that each speaks of: its own fold, and those of none."""
        new = fold < 0
        for number, member in enumerate(self.members):
            mine = ((fold == number) | new).nonzero().squeeze(-1)
            if len(mine):
                yield member, mine
