"""`run.envs` of a func.yaml: literal values, and Knative's references to Secrets and ConfigMaps.

The forms are those of Knative's func.yaml: `{{ secret:NAME:KEY }}`, `{{ configMap:NAME:KEY }}`, and either without a
key and without a variable's name for all keys at once. `{{ env:NAME }}` means the deployer's own environment, which
no generated file can depend on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Variable", "variables"]

REFERENCE = re.compile(r"\{\{\s*(secret|configMap):([^:\s}]+)(?::([^:\s}]+))?\s*\}\}")

# A value under such a name would end in version control and in every `kubectl get`.
SECRET_NAME = re.compile(r"(PEPPER|SECRET|PASSWORD|TOKEN|CREDENTIALS|DATABASE_URL|_KEY)$")


@dataclass(frozen=True)
class Variable:
    """One entry of the environment: a literal `value`, or `key` of the `kind` called `of`."""

    name: str | None
    """None: every key of the object becomes a variable of that name."""
    value: str | None = None
    kind: str | None = None
    of: str | None = None
    key: str | None = None


def variables(envs: Iterable[Mapping[str, Any]]) -> tuple[Variable, ...]:
    """The entries in their order. ValueError says which one is wrong and how to write it."""
    return tuple(_variable(entry.get("name"), str(entry.get("value", ""))) for entry in envs)


def _variable(name: str | None, value: str) -> Variable:
    if found := REFERENCE.fullmatch(value.strip()):
        kind, of, key = found.groups()
        if (name is None) != (key is None):
            raise ValueError(f"run.envs: {value} needs both a name and a key, or neither")
        return Variable(name, kind=kind, of=of, key=key)
    if "{{" in value or name is None:
        raise ValueError(f"run.envs: {name}: {value!r} is neither a value nor a secret: or configMap: reference")
    if SECRET_NAME.search(name):
        raise ValueError(f"run.envs: {name} must come from a Secret: '{{{{ secret:llmariner-secrets:{name} }}}}'")
    return Variable(name, value=value)
