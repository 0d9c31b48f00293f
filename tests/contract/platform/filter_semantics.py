"""What a filter on attributes means, in Python: the tests of the vector index compare it with the index."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from llmariner.platform.vectors import AttributeValue, Comparison, Compound, Filter

__all__ = ["matches"]

_ORDER = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def matches(filters: Filter, attributes: Mapping[str, AttributeValue]) -> bool:
    """Whether a file with these attributes satisfies a filter."""
    if isinstance(filters, Compound):
        parts = [matches(part, attributes) for part in filters.filters]
        return all(parts) if filters.operator == "and" else any(parts)
    if filters.operator in ("eq", "in"):
        return any(_equals(attributes.get(filters.key), value) for value in _values(filters))
    if filters.operator in ("ne", "nin"):
        return not any(_equals(attributes.get(filters.key), value) for value in _values(filters))
    (value,) = _values(filters)
    own = attributes.get(filters.key)
    return own is not None and _kind(own) == _kind(value) and bool(_ORDER[filters.operator](own, value))


def _values(comparison: Comparison) -> list[AttributeValue]:
    value = comparison.value
    return [value] if isinstance(value, (str, bool, int, float)) else list(value)


def _equals(own: AttributeValue | None, value: AttributeValue) -> bool:
    return own is not None and _kind(own) == _kind(value) and own == value


def _kind(value: AttributeValue) -> str:
    return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
