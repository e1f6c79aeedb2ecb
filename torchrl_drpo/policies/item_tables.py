"""Item vectors of what is known of items: of their codes, or of their features.

A vector of an item's own is learned from the rows that show it; an item that came after the log has
none. Where its vector is made of codes or features, it has one as soon as these are known, and can
be ranked, and read in a history, like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.functional.checks import check_finite
from torchrl_drpo.policies.encoders.features import FeatureScaler

ItemTableKind = Literal["ids", "codes", "features"]


@dataclass(frozen=True)
class ItemTableConfig:
    """What item vectors are made of, without the items' data: enough to load a saved policy.

    Attributes:
        kind: ``"ids"`` (a vector of each item's own), ``"codes"`` (the sum of its codes' vectors)
            or ``"features"`` (a projection of its features or embedding).
        sizes: of ``"codes"``: number of codes of each level; of ``"features"``: how many there are.
        hidden: of ``"features"``: widths of the projection's hidden layers; linear by default.
        own: whether a vector of each item's own, zero at first, is added to codes or features.
    """

    kind: ItemTableKind = "ids"
    sizes: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    own: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))  # JSON has lists
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.kind not in ("ids", "codes", "features"):
            raise ValueError(f"item_table must be ids, codes or features, got {self.kind!r}")

    def to_json(self) -> dict[str, Any]:
        """As JSON data, for a checkpoint."""
        return asdict(self)

    @classmethod
    def of(
        cls,
        value: ItemTableConfig | Mapping[str, Any] | ItemTableKind,
        data: Tensor | None,
        num_items: int,
    ) -> ItemTableConfig:
        """The config that an actor was given, its sizes taken from the items' data.

        Raises:
            ValueError: for data that does not fit, or that is missing.
        """
        if isinstance(value, str):
            config = cls(value)
        else:
            config = value if isinstance(value, cls) else cls(**value)
        if config.kind == "ids":
            if data is not None:
                raise ValueError("item_table='ids' learns its vectors from rows; give no item_data")
            return config
        if data is None:
            if not config.sizes:
                what = "codes, int [V, T]" if config.kind == "codes" else "features, float [V, F]"
                raise ValueError(f"item_table={config.kind!r} needs item_data: the items' {what}")
            return config
        _check_data(config.kind, data, num_items)
        if config.kind == "features":
            sizes = (data.shape[1],)
        else:
            sizes = tuple(int(level) + 1 for level in data.amax(0).clamp_min(0))
        return cls(config.kind, config.sizes or sizes, config.hidden, config.own)


class ItemCodes(nn.Module):
    r"""Item vectors as sums of code vectors, :math:`e_v = \sum_t u^{(t)}_{c_t(v)}\ (+ o_v)`.

    Args:
        num_items: size ``V`` of the catalogue.
        dim: width ``D``.
        config: of kind ``"codes"``.
        codes: integers ``[V, T]``, -1 where an item has no code (it then adds nothing); all -1 by
            default, to load a saved state.
        device: where the parameters live.

    Attributes:
        vectors: one table a level, each ``[C_t, D]``.
        own: parameter ``[V, D]``, zeros at first, or ``None``.

    Raises:
        ValueError: for a code that its level does not have.

    Examples:
        >>> codes = torch.tensor([[0, 1], [0, 0], [1, -1]])
        >>> table = ItemCodes(3, 2, ItemTableConfig("codes", (2, 2)), codes)
        >>> first, second = table.vectors
        >>> torch.equal(table()[0], first[0] + second[1]), torch.equal(table()[2], first[1])
        (True, True)
    """

    codes: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int,
        config: ItemTableConfig,
        codes: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        levels = len(config.sizes)
        known = torch.full((num_items, levels), -1) if codes is None else codes.long().clone()
        above = (known >= torch.tensor(config.sizes)).nonzero()
        if len(above):
            item, level = above[0].tolist()
            raise ValueError(
                f"level {level} has {config.sizes[level]} codes but item {item} has code "
                f"{int(known[item, level])}"
            )
        self.register_buffer("codes", known.to(device))
        self.vectors = nn.ParameterList(
            nn.Parameter(torch.empty(size, dim, device=device)) for size in config.sizes
        )
        own = nn.Parameter(torch.empty(num_items, dim, device=device)) if config.own else None
        self.register_parameter("own", own)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws code vectors anew so that items have about unit length; own vectors become 0."""
        for table in self.vectors:
            table.normal_(std=(table.shape[1] * len(self.vectors)) ** -0.5)
        if self.own is not None:
            self.own.zero_()

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Vectors of all items, ``[V, D]``, or of some, ``[*items.shape, D]``."""
        codes = self.codes if items is None else self.codes[items]
        out: Tensor | float = 0.0
        for level, table in enumerate(self.vectors):
            code = codes[..., level]
            there = (code >= 0).unsqueeze(-1)
            out = out + torch.where(there, F.embedding(code.clamp_min(0), table), 0.0)
        return _with_own(out, self.own, items)


class ItemFeatures(nn.Module):
    r"""Item vectors as a projection of item features, :math:`e_v = f(x_v)\ (+ o_v)`.

    Features are read in standard units over the catalogue. An item whose features are all 0 is one
    of whom nothing is known, and has a learned vector that all such items share.

    Args:
        num_items: size ``V`` of the catalogue.
        dim: width ``D``.
        config: of kind ``"features"``.
        features: finite, ``[V, F]``; zeros by default, to load a saved state.
        device: where the parameters live.

    Attributes:
        project: the projection ``f``.
        own: parameter ``[V, D]``, zeros at first, or ``None``.

    Examples:
        >>> table = ItemFeatures(4, 2, ItemTableConfig("features", (3,)), torch.randn(4, 3))
        >>> table().shape, table(torch.tensor([[0, 2]])).shape
        (torch.Size([4, 2]), torch.Size([1, 2, 2]))
    """

    features: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int,
        config: ItemTableConfig,
        features: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        (width,) = config.sizes
        values = torch.zeros(num_items, width) if features is None else features.float().clone()
        self.register_buffer("features", values.to(device))
        self.scaler = FeatureScaler(width, device)
        known = values[values.any(-1)].double()
        if len(known):
            self.scaler.fit_(known.mean(0), known.std(0, correction=0))
        layers: list[nn.Module] = []
        for before, after in pairwise([width, *config.hidden, dim]):
            layers += [nn.Linear(before, after, device=device), nn.ReLU()]
        self.project = nn.Sequential(*layers[:-1])
        self.unknown = nn.Parameter(torch.empty(dim, device=device))
        own = nn.Parameter(torch.empty(num_items, dim, device=device)) if config.own else None
        self.register_parameter("own", own)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Makes items of about unit length at first; own and unknown vectors become 0."""
        last = self.project[-1]
        assert isinstance(last, nn.Linear)
        fan_in, dim = last.in_features, last.out_features
        last.weight.normal_(std=(fan_in * dim) ** -0.5)
        last.bias.zero_()
        self.unknown.zero_()
        if self.own is not None:
            self.own.zero_()

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Vectors of all items, ``[V, D]``, or of some, ``[*items.shape, D]``."""
        features = self.features if items is None else self.features[items]
        made = self.project(self.scaler(features).to(self.unknown.dtype))
        known = (features != 0).any(-1, keepdim=True)
        return _with_own(torch.where(known, made, self.unknown), self.own, items)


def make_item_table(
    config: ItemTableConfig,
    num_items: int,
    dim: int,
    data: Tensor | None,
    device: torch.device | str | None,
) -> ItemCodes | ItemFeatures | None:
    """The module of a table that is not of the items' own vectors alone."""
    if config.kind == "ids":
        return None
    kind = ItemCodes if config.kind == "codes" else ItemFeatures
    return kind(num_items, dim, config, data, device)


def _with_own(made: Tensor, own: Tensor | None, items: Tensor | None) -> Tensor:
    if own is None:
        return made
    return made + (own if items is None else F.embedding(items, own))


def _check_data(kind: str, data: Tensor, num_items: int) -> None:
    """Raises ``ValueError`` for item data of another form."""
    is_float = data.is_floating_point()
    if data.ndim != 2 or data.shape[0] != num_items or not data.shape[1]:
        letter = "T" if kind == "codes" else "F"
        raise ValueError(
            f"item_data must have a row for each of the {num_items} items, [V, {letter}], got "
            f"{list(data.shape)}"
        )
    if is_float != (kind == "features"):
        wanted = "floating" if kind == "features" else "integers"
        raise ValueError(f"item_data of {kind} must be {wanted}, got {data.dtype}")
    if is_float:
        check_finite("item_data", data, hint="mend these items, or leave them at 0, unknown")
        return
    bad = (data < -1).nonzero()
    if len(bad):
        item, level = bad[0].tolist()
        raise ValueError(
            f"codes must be at least 0, or -1 for none, but item {item} has "
            f"{int(data[item, level])} at level {level}"
        )
