"""Filter expressions of Milvus, built without a word of a caller's.

Ids are the platform's own and are checked against a list of allowed characters. Keys of attributes are hashed, texts are
written in base32hex (RFC 4648 §7), which has the same order as the text's code points and the letters 0-9 and A-V only, and
numbers are finite floats. So nothing has to be escaped, and all of Milvus' parsers read an expression alike.

The index stores attributes in the same form (`encoded_attributes`): a JSON object whose keys carry the value's type, so
that a value only ever compares with values of its own type.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from llmariner.platform.vectors import AttributeValue, Comparison, Compound, Filter

__all__ = ["MAX_COMPARISONS", "MAX_DEPTH", "encoded_attributes", "ids_in", "tenant_of", "where"]

MAX_COMPARISONS = 2_000
"""Values compared by one expression, those of lists counted singly."""

MAX_DEPTH = 32
"""Levels of filters within filters."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_TENANT = re.compile(r'tenant == "([A-Za-z0-9_.:-]+)"', re.ASCII)
_ALL = 'id != ""'
_NONE = 'id == ""'
_OPERATORS = {"eq": "==", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def where(
    tenant: str,
    *,
    vector_store_ids: Sequence[str] = (),
    file_id: str | None = None,
    filters: Filter | None = None,
) -> str:
    """The expression for chunks of a tenant, of any of some vector stores, of a file, and with matching attributes.

    A comparison with an attribute that a file does not have, or has with another type, is false; `ne` and `nin` are the
    opposite of `eq` and `in`, and so true. Raises ValueError for an invalid id, value or operator, and for a filter
    that exceeds MAX_COMPARISONS or MAX_DEPTH.
    """
    terms = [f"tenant == {_quoted_id(tenant)}"]
    if vector_store_ids:
        terms.append(_ids("vector_store_id", vector_store_ids))
    if file_id is not None:
        terms.append(f"file_id == {_quoted_id(file_id)}")
    if filters is not None:
        if _count_comparisons(filters, 1) > MAX_COMPARISONS:
            raise ValueError(f"A filter may compare with at most {MAX_COMPARISONS} values.")
        terms.append(f"({_filter(filters)})")
    return " and ".join(terms)


def ids_in(tenant: str, ids: Iterable[str]) -> str:
    """The expression for chunks of a tenant with given ids. Raises ValueError for an invalid id."""
    return f"tenant == {_quoted_id(tenant)} and {_ids('id', ids)}"


def tenant_of(expression: str) -> str:
    """The tenant that an expression of this module is for; empty for another expression."""
    found = _TENANT.match(expression)
    return found[1] if found else ""


def encoded_attributes(attributes: Mapping[str, AttributeValue]) -> dict[str, str | float]:
    """Attributes as the index stores them. Raises ValueError for a value that is no text, finite number or bool."""
    return {_stored_key(key, value): _stored_value(value) for key, value in attributes.items()}


def _ids(field: str, ids: Iterable[str]) -> str:
    return f"{field} in [{', '.join(_quoted_id(id_) for id_ in ids)}]"


def _quoted_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError(f"{value[:200]!r} is no id: 1 to 128 of the characters A-Z a-z 0-9 _ . : -")
    return f'"{value}"'


def _count_comparisons(filters: Filter, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise ValueError(f"Filters may be nested at most {MAX_DEPTH} levels deep.")
    if isinstance(filters, Compound):
        return sum(_count_comparisons(part, depth + 1) for part in filters.filters)
    return len(_listed(filters)) if filters.operator in ("in", "nin") else 1


def _filter(filters: Filter) -> str:
    if isinstance(filters, Comparison):
        return _comparison(filters)
    if filters.operator not in ("and", "or"):
        raise ValueError(f"{filters.operator!r} is no operator of a compound filter.")
    if not filters.filters:
        return _ALL if filters.operator == "and" else _NONE
    return f" {filters.operator} ".join(f"({_filter(part)})" for part in filters.filters)


def _comparison(comparison: Comparison) -> str:
    key, operator = comparison.key, comparison.operator
    if operator in ("in", "nin"):
        values = _listed(comparison)
    elif isinstance(comparison.value, (str, float, int)):
        values = [comparison.value]
    else:
        raise ValueError(f"The value of {operator!r} must be a text, number or bool.")
    if operator in ("eq", "in"):
        return " or ".join(dict.fromkeys(_compared(key, "==", value) for value in values)) or _NONE
    if operator in ("ne", "nin"):
        return " and ".join(_differs(path, of_type) for path, of_type in _by_path(key, values).items()) or _ALL
    if operator not in _OPERATORS:
        raise ValueError(f"{operator!r} is no operator of a comparison.")
    return _compared(key, _OPERATORS[operator], values[0])


def _listed(comparison: Comparison) -> Sequence[AttributeValue]:
    if isinstance(comparison.value, (str, float, int)):
        raise ValueError(f"The value of {comparison.operator!r} must be a list.")
    return comparison.value


def _compared(key: str, operator: str, value: AttributeValue) -> str:
    return f"{_path(key, value)} {operator} {_literal(value)}"


def _literal(value: AttributeValue) -> str:
    stored = _stored_value(value)
    return f'"{stored}"' if isinstance(stored, str) else repr(stored)


def _by_path(key: str, values: Iterable[AttributeValue]) -> dict[str, list[str]]:
    """The literals of each type among the values, by the path of their attribute."""
    found: dict[str, list[str]] = {}
    for value in values:
        found.setdefault(_path(key, value), []).append(_literal(value))
    return found


def _differs(path: str, literals: Iterable[str]) -> str:
    """The attribute is missing, or none of the literals. Milvus Lite's parser has no `not in` for paths into JSON."""
    different = " and ".join(f"{path} != {literal}" for literal in dict.fromkeys(literals))
    return f"((not (exists {path})) or ({different}))"


def _path(key: str, value: AttributeValue) -> str:
    return f'attributes["{_stored_key(key, value)}"]'


def _stored_key(key: str, value: AttributeValue) -> str:
    kind = "b" if isinstance(value, bool) else "s" if isinstance(value, str) else "n"
    return f"{kind}_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _stored_value(value: AttributeValue) -> str | float:
    if isinstance(value, str):
        # Without the padding the order stays: a text before its continuations.
        return base64.b32hexencode(value.encode()).decode().rstrip("=")
    if not isinstance(value, (bool, float, int)):
        raise ValueError(f"An attribute must be a text, number or bool, not {type(value).__name__}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("A number must be finite, and smaller than 1.8e308.")
    return number
