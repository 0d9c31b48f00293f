"""Parses `run.envs` of a func.yaml: literal values, and references to Secrets and ConfigMaps.

The forms are those of Knative's func.yaml: `{{ secret:NAME:KEY }}`, `{{ configMap:NAME:KEY }}`, and either without a
key and without a variable's name for all keys at once. `{{ env:NAME }}`, the deployer's environment, is rejected:
generated files must not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Variable", "parse_variables"]

REFERENCE = re.compile(r"\{\{\s*(secret|configMap):([^:\s}]+)(?::([^:\s}]+))?\s*\}\}")

# A literal value under such a name would be readable in version control and in the pod's spec.
SECRET_NAME = re.compile(r"(PEPPER|SECRET|PASSWORD|TOKEN|CREDENTIALS|DATABASE_URL|_KEY)$")


@dataclass(frozen=True)
class Variable:
    """One environment variable: a literal `value`, or `key` of the Secret or ConfigMap `object_name`."""

    name: str | None
    """None: every key of the object becomes a variable."""
    value: str | None = None
    object_kind: str | None = None
    object_name: str | None = None
    key: str | None = None


def parse_variables(envs: Iterable[Mapping[str, Any]]) -> tuple[Variable, ...]:
    """The variables in order. ValueError names an invalid entry and the expected form."""
    return tuple(_parse_variable(entry.get("name"), str(entry.get("value", ""))) for entry in envs)


def _parse_variable(name: str | None, value: str) -> Variable:
    if reference := REFERENCE.fullmatch(value.strip()):
        object_kind, object_name, key = reference.groups()
        if (name is None) != (key is None):
            raise ValueError(f"run.envs: {value} needs both a name and a key, or neither")
        return Variable(name, object_kind=object_kind, object_name=object_name, key=key)
    if "{{" in value or name is None:
        raise ValueError(f"run.envs: {name}: {value!r} is neither a value nor a secret: or configMap: reference")
    if SECRET_NAME.search(name):
        raise ValueError(f"run.envs: {name} must come from a Secret: '{{{{ secret:llmariner-secrets:{name} }}}}'")
    return Variable(name, value=value)
