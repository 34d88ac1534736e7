"""Distinct counts: Apache DataSketches HLL, lg_k 12, over the UTF-8 text of the counted value.

The estimate of a merged HLL depends on how it was merged; `estimate` is therefore canonical: a fresh union is
updated twice with the sketch, and its estimate rounded to a whole number (docs/specs/metric.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from datasketches import hll_sketch, hll_union, tgt_hll_type

LG_K = 12


def sketch_of(values: Iterable[str]) -> bytes:
    """The compact bytes of the sketch of the distinct `values`; order and repetition do not matter."""
    sketch = hll_sketch(LG_K, tgt_hll_type.HLL_8)
    for value in values:
        sketch.update(value)
    return bytes(sketch.serialize_compact())


def merge(sketches: Iterable[bytes]) -> bytes:
    """The sketch of everything that any of `sketches` holds."""
    union = hll_union(LG_K)
    for stored in sketches:
        union.update(hll_sketch.deserialize(stored))
    return bytes(union.get_result(tgt_hll_type.HLL_8).serialize_compact())


def estimate(stored: bytes) -> int:
    """The canonical estimate of a stored sketch: the same for the same registers, however they came about."""
    sketch = hll_sketch.deserialize(stored)
    union = hll_union(LG_K)
    union.update(sketch)
    union.update(sketch)
    estimated: float = union.get_estimate()
    return round(estimated)
