"""Moments that callers give: seconds since 1970. One that can only be meant in another unit is refused, with its name.

Such a moment would be taken for one thousands of years away: a range without anything in it, a key that never ends.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

__all__ = ["MIN_NANOSECONDS", "FractionalTimestamp", "Timestamp", "unit_mistake"]

Number = TypeVar("Number", int, float)

MIN_NANOSECONDS = 1e17
"""From here on a number can only be meant as nanoseconds, of 1973 or later."""

# Seconds of the year 5138, milliseconds and microseconds of 1973.
_UNITS = ((MIN_NANOSECONDS, "nanoseconds", 1e9), (1e14, "microseconds", 1e6), (1e11, "milliseconds", 1e3))


def unit_mistake(value: float) -> str | None:
    """What is wrong with a moment that was not given in seconds; None for one that was."""
    for least, unit, per_second in _UNITS:
        if value >= least:
            return f"{value:.0f} looks like {unit}; give seconds since 1970, here {value / per_second:.0f}"
    return None


def _check_unit(value: Number) -> Number:
    if wrong := unit_mistake(value):
        # Its text is a template, and there is nothing to fill in.
        raise PydanticCustomError("time_unit", "{wrong}", {"wrong": wrong})
    return value


Timestamp = Annotated[int, Field(ge=0), AfterValidator(_check_unit)]
"""Whole seconds since 1970."""

FractionalTimestamp = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_check_unit)]
"""Seconds since 1970, with parts of them."""
