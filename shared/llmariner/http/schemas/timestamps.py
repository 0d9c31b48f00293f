"""Timestamps in requests, in seconds since 1970. A value that is plausible only in another unit is rejected.

Such a value would otherwise mean a time thousands of years ahead: an empty range, or a key that never expires.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

__all__ = ["MIN_NANOSECONDS", "FractionalTimestamp", "Timestamp", "unit_mistake"]

Number = TypeVar("Number", int, float)

MIN_NANOSECONDS = 1e17
"""A number from this on is plausible only as nanoseconds (1973 or later)."""

# Seconds of the year 5138, milliseconds and microseconds of 1973.
_UNITS = ((MIN_NANOSECONDS, "nanoseconds", 1e9), (1e14, "microseconds", 1e6), (1e11, "milliseconds", 1e3))


def unit_mistake(value: float) -> str | None:
    """The error text for a timestamp in another unit than seconds; None for a valid one."""
    for minimum, unit, per_second in _UNITS:
        if value >= minimum:
            return f"{value:.0f} looks like {unit}; give seconds since 1970, here {value / per_second:.0f}"
    return None


def _check_unit(value: Number) -> Number:
    if mistake := unit_mistake(value):
        # The message is a template, so the text is passed as its value.
        raise PydanticCustomError("time_unit", "{mistake}", {"mistake": mistake})
    return value


Timestamp = Annotated[int, Field(ge=0), AfterValidator(_check_unit)]
"""Whole seconds since 1970."""

FractionalTimestamp = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_check_unit)]
"""Seconds since 1970, with a fraction."""
