"""What a trained policy knows of the log's users, and raw ids by which they and items are found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchrl_drpo.data.catalogue import Catalogue

RawId = int | str


def raw_ids(catalogue: Catalogue) -> list[RawId]:
    """All raw ids of a catalogue, in the order of their numbers."""
    return catalogue.decode(range(len(catalogue)))


@dataclass(frozen=True)
class UserHistories:
    """What each user of the log did, oldest first: values and offsets, never a padded table.

    Attributes:
        ids: the ``U`` users.
        items: item indices of all users, one user after another, integer ``[M]``.
        offsets: user ``u`` owns ``items[offsets[u]:offsets[u + 1]]``, int64 ``[U + 1]``.
        context: each user's latest context columns, int64 ``[U, C]``.
        features: each user's latest numeric features, float32 ``[U, F]``.
        times: when each of the items was logged, int64 ticks ``[M]``, where the policy reads it.
        feedback: what it was worth, float32 ``[M]``, likewise.
    """

    ids: Catalogue
    items: Tensor
    offsets: Tensor
    context: Tensor
    features: Tensor
    times: Tensor | None = None
    feedback: Tensor | None = None

    def sequence(self, row: int) -> Tensor:
        """All items of one user, oldest first, int64 ``[n]``."""
        return self.items[self._span(row)].long()

    def about(self, row: int) -> dict[str, Tensor]:
        """What else is known of them: ``times`` and ``feedback``, each ``[n]``."""
        known = {"times": self.times, "feedback": self.feedback}
        return {
            name: values[self._span(row)] for name, values in known.items() if values is not None
        }

    def _span(self, row: int) -> slice:
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def latest(self, rows: Tensor, length: int | None = None) -> Tensor:
        """The latest items of many users, oldest first, padded with -1 on the left.

        Args:
            rows: the users, int64 ``[B]``; -1 is one of whom nothing is known.
            length: how many; ``None`` for as many as the longest of these histories has.

        Returns:
            int64 ``[B, length]``.
        """
        place, there = self._latest_places(rows, length)
        if not len(self.items):
            return torch.full(place.shape, -1)
        return torch.where(there, self.items[place].long(), -1)

    def latest_about(self, rows: Tensor, length: int) -> dict[str, Tensor]:
        """What else is known of those items: ``times`` and ``feedback``, each ``[B, length]``.

        0 where there is none.
        """
        place, there = self._latest_places(rows, length)
        known = {"times": self.times, "feedback": self.feedback}
        return {
            name: torch.where(there, values[place], torch.zeros((), dtype=values.dtype))
            for name, values in known.items()
            if values is not None and len(values)
        }

    def _latest_places(self, rows: Tensor, length: int | None) -> tuple[Tensor, Tensor]:
        """Where the latest items of users stand, and which of them there are, ``[B, length]``."""
        known = rows.clamp(min=0)
        end = self.offsets[known + 1] if len(self.ids) else torch.zeros_like(rows)
        count = torch.where(rows >= 0, end - self.offsets[known], 0)
        if length is None:
            length = int(count.max()) if len(rows) else 0
        behind = torch.arange(length, 0, -1)  # the last column is the latest item
        there = behind <= count.unsqueeze(1)
        return torch.where(there, end.unsqueeze(1) - behind, 0), there
