"""Parsing of Kubernetes quantities: `250m`, `16Gi`, `1e3`."""

from __future__ import annotations

import re

__all__ = ["parse_quantity"]

_UNITS = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_UNITS |= {unit: 1000.0**power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate(("K", "M", "G", "T", "P", "E"), 1)}
_FORM = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")


def parse_quantity(value: object) -> float:
    """The value in base units (cores, bytes, devices); 0 for an invalid quantity."""
    found = _FORM.fullmatch(str(value).strip())
    if found is None or found[2] not in _UNITS:
        return 0.0
    try:
        return float(found[1]) * _UNITS[found[2]]
    except ValueError:
        return 0.0
