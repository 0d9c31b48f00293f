"""OpenAI's filters of attributes: comparisons, and compounds of them, parsed into `platform.vectors.Filter`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from llmariner.errors import InvalidRequest
from llmariner.platform.vectors import AttributeValue, Comparison, Compound, Filter
from llmariner.vector_stores.attributes import MAX_KEY_LENGTH, validate_value
from llmariner.vector_stores.query import SearchQuery

__all__ = ["MAX_COMPARISONS", "MAX_DEPTH", "MAX_WORK", "check_work", "parse_filter"]

MAX_DEPTH = 8
"""Levels of filters, a single comparison being one."""
MAX_COMPARISONS = 200
"""Compared values of a whole filter; those of lists count singly."""

MAX_WORK = 2_000
"""Conditions that one search evaluates: those of its filter, once for each query and each half of the search."""

_Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
_OPERATORS: tuple[str, ...] = get_args(_Operator)
_COMPOUNDS = ("and", "or")
_LISTS = ("in", "nin")
_ORDERED = ("gt", "gte", "lt", "lte")


def parse_filter(value: Any, param: str = "filters") -> Filter:
    """The filter of a request's JSON. InvalidRequest names the invalid part, such as `filters.filters[1].value`."""
    return _Parser().parse(value, param, 1)


def check_work(query: SearchQuery) -> None:
    """Raise InvalidRequest for a search whose queries multiply its filter beyond MAX_WORK."""
    if query.filters is None:
        return
    conditions, times = _conditions(query.filters), len(query.texts) * (query.is_by_words + query.is_by_vector)
    if conditions * times > MAX_WORK:
        raise InvalidRequest(
            f"This search evaluates a filter of {conditions} conditions and values {times} times, once for each query and "
            f"half of the search: {MAX_WORK:,} in all at most. Search with fewer queries at once, or with a shorter filter.",
            param="filters",
        )


def _conditions(filters: Filter) -> int:
    """Compared values, and the compounds around them."""
    if isinstance(filters, Compound):
        return 1 + sum(_conditions(part) for part in filters.filters)
    return len(filters.value) if isinstance(filters.value, list) else 1


class _Parser:
    """Counts the comparisons of one filter."""

    def __init__(self) -> None:
        self._comparisons = 0

    def parse(self, value: Any, param: str, depth: int) -> Filter:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"'{param}' must be an object with 'type'.", param=param)
        if depth > MAX_DEPTH:
            raise InvalidRequest(
                f"A filter may have {MAX_DEPTH} levels at most: put its parts side by side.", param=param
            )
        kind = value.get("type")
        if kind in _COMPOUNDS:
            return self._compound(value, param, depth)
        if kind in _OPERATORS:
            return self._comparison(value, param)
        allowed = ", ".join((*_OPERATORS, *_COMPOUNDS))
        raise InvalidRequest(f"'{param}.type' must be one of {allowed}.", param=f"{param}.type")

    def _compound(self, value: Mapping[str, Any], param: str, depth: int) -> Compound:
        _reject_unknown(value, param, ("type", "filters"))
        parts = value.get("filters")
        if not isinstance(parts, list) or not parts:
            raise InvalidRequest(f"'{param}.filters' must be a list of filters, not empty.", param=f"{param}.filters")
        if len(parts) > MAX_COMPARISONS:
            raise _too_many(f"{param}.filters")
        found = [self.parse(part, f"{param}.filters[{index}]", depth + 1) for index, part in enumerate(parts)]
        return Compound(value["type"], found)

    def _comparison(self, value: Mapping[str, Any], param: str) -> Comparison:
        _reject_unknown(value, param, ("type", "key", "value"))
        key, operator = value.get("key"), cast(_Operator, value["type"])
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_LENGTH:
            raise InvalidRequest(
                f"'{param}.key' must be the key of an attribute, of 1 to {MAX_KEY_LENGTH} characters.",
                param=f"{param}.key",
            )
        return Comparison(key, operator, self._compared(value.get("value"), operator, f"{param}.value"))

    def _compared(self, value: Any, operator: _Operator, param: str) -> AttributeValue | list[AttributeValue]:
        if operator not in _LISTS:
            self._count(1, param)
            return _scalar(value, param, ordered=operator in _ORDERED)
        if not isinstance(value, list) or not value:
            raise InvalidRequest(
                f"'{param}' must be a list, not empty: '{operator}' compares with several.", param=param
            )
        self._count(len(value), param)
        return [_scalar(each, f"{param}[{index}]", ordered=False) for index, each in enumerate(value)]

    def _count(self, more: int, param: str) -> None:
        self._comparisons += more
        if self._comparisons > MAX_COMPARISONS:
            raise _too_many(param)


def _scalar(value: Any, param: str, *, ordered: bool) -> AttributeValue:
    if ordered and isinstance(value, bool):
        raise InvalidRequest(f"'{param}' must be a string or a number: booleans have no order.", param=param)
    return validate_value(value, param)


def _reject_unknown(value: Mapping[str, Any], param: str, allowed: tuple[str, ...]) -> None:
    for field in value:
        if field not in allowed:
            shown = str(field)[:80]
            raise InvalidRequest(
                f"'{param}' has no field '{shown}': it has {', '.join(allowed)}.",
                param=f"{param}.{shown}",
                code="unknown_parameter",
            )


def _too_many(param: str) -> InvalidRequest:
    return InvalidRequest(f"A filter may compare with {MAX_COMPARISONS} values at most.", param=param)
