"""Connections that a proxy opens to the engine per request: near 0 when it keeps them alive, 1 when it does not."""

from __future__ import annotations

import http.client
from dataclasses import replace

from ..load_driver import drive
from ..target import Started
from .request_cost import LOAD

COUNT = 400
METRIC = "scripted:connections_total"


def measure(engine: Started, proxy: Started) -> float:
    # Connections that were idle since the measure before this one may have been closed meanwhile.
    drive(replace(LOAD, warm=1, seconds=10, count=LOAD.connections * 4), proxy)
    before = _connections(engine)
    drive(replace(LOAD, warm=1, seconds=10, count=COUNT), proxy)
    return (_connections(engine) - before - 1) / COUNT


def _connections(engine: Started) -> float:
    """What the engine has accepted so far, this question included."""
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        rows = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return float(next(row.rpartition(" ")[2] for row in rows if row.startswith(METRIC)))
