"""Metadata of vector stores and attributes of their files, within OpenAI's bounds. All raise InvalidRequest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from llmariner.errors import InvalidRequest
from llmariner.platform.vectors import AttributeValue

__all__ = ["MAX_KEY_LENGTH", "validate_attributes", "validate_metadata", "validate_value"]

Value = TypeVar("Value")

MAX_KEY_LENGTH = 64
_MAX_PAIRS = 16
_MAX_TEXT_LENGTH = 512
# Beyond it a whole number is no longer exact as a double, which is how the index stores it.
_MAX_NUMBER = 2**53


def validate_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Up to 16 pairs: keys of 1 to 64 characters, values of up to 512."""
    for key, value in _validate_keys(metadata, "metadata").items():
        _validate_text(value, f"metadata.{key}")
    return dict(metadata)


def validate_attributes(attributes: Mapping[str, Any], param: str = "attributes") -> dict[str, AttributeValue]:
    """As `validate_metadata`; a value may also be a number or a boolean."""
    checked = _validate_keys(attributes, param)
    return {key: validate_value(value, f"{param}.{key}") for key, value in checked.items()}


def validate_value(value: Any, param: str) -> AttributeValue:
    """One value of an attribute, or one that attributes are compared with: a string, a number or a boolean."""
    if not isinstance(value, (str, int, float)):
        raise InvalidRequest(f"'{param}' must be a string, a number or a boolean.", param=param)
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _validate_text(value, param)
    exact = abs(value) <= _MAX_NUMBER if isinstance(value, int) else math.isfinite(value)
    if not exact:
        raise InvalidRequest(
            f"'{param}' is out of range: a whole number may be up to 2^53, another number must be finite. Send it as text.",
            param=param,
        )
    return value


def _validate_keys(pairs: Mapping[str, Value], param: str) -> Mapping[str, Value]:
    if len(pairs) > _MAX_PAIRS:
        raise InvalidRequest(f"'{param}' may have {_MAX_PAIRS} pairs at most, not {len(pairs)}.", param=param)
    for key in pairs:
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            raise InvalidRequest(f"Keys of '{param}' must have 1 to {MAX_KEY_LENGTH} characters.", param=param)
    return pairs


def _validate_text(value: str, param: str) -> str:
    if len(value) > _MAX_TEXT_LENGTH:
        raise InvalidRequest(
            f"'{param}' may have {_MAX_TEXT_LENGTH} characters at most, not {len(value)}.", param=param
        )
    return value
