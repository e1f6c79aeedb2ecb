"""Pieces of Triton code that several kernels share."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def live_places(n_rows_ptr, places, HAS_COUNT: tl.constexpr):
    """How many places hold a row: all, or ``n_rows`` read on the device."""
    live = places
    if HAS_COUNT:
        live = tl.minimum(tl.maximum(tl.load(n_rows_ptr), 0), places).to(tl.int32)
    return live


@triton.jit
def rows_at(index_ptr, place, live, HAS_INDEX: tl.constexpr):
    """int64 rows of a block of places; row 0 where a place is not live."""
    if HAS_INDEX:
        rows = tl.load(index_ptr + place, mask=live, other=0).to(tl.int64)
    else:
        rows = tl.where(live, place, 0).to(tl.int64)
    return rows
