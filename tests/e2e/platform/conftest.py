"""The platform that these tests drive."""

from __future__ import annotations

from .standalone_platform import platform

__all__ = ["platform"]
