"""Unit tests use no network: a test that opens a connection fails."""

from __future__ import annotations

import socket
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> None:
        raise AssertionError("a unit test uses no sockets; tests/functions is the place for this one")

    for call in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, call, refuse)
