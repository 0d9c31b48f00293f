"""The platform that these tests drive."""

from __future__ import annotations

from .running import platform

__all__ = ["platform"]
