"""Secrets in memory, for what makes them."""

from __future__ import annotations

from collections.abc import Mapping

from llmariner.installation.secret_objects import Found

__all__ = ["MemorySecrets"]


class MemorySecrets:
    """`values`: name → key → value. Those given are an administrator's."""

    def __init__(self, brought: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.values = {name: dict(values) for name, values in (brought or {}).items()}
        self.brought = frozenset(self.values)

    def get(self, name: str) -> Found | None:
        if name not in self.values:
            return None
        return Found(dict(self.values[name]), ours=name not in self.brought)

    def create(self, name: str, values: Mapping[str, str]) -> bool:
        if name in self.values:
            return False
        self.values[name] = dict(values)
        return True

    def replace(self, name: str, values: Mapping[str, str]) -> None:
        assert name in self.values
        assert name not in self.brought
        self.values[name] = dict(values)
