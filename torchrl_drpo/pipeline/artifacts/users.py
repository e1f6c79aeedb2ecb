"""What a trained policy knows of the log's users, and raw ids by which they and items are found."""

from __future__ import annotations

from dataclasses import dataclass

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
