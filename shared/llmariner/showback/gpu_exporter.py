"""GPUs of one machine, read from an exporter's own page: there is no Prometheus, and no pod that has a GPU."""

from __future__ import annotations

import logging
import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from llmariner.platform.bounded_http import bounded_connection, read_whole
from llmariner.platform.database import Database
from llmariner.showback.machine_use import put_gpu_use
from llmariner.showback.utilization import HOUR

__all__ = ["GpuExporter", "GpuReading", "read_page"]

_log = logging.getLogger(__name__)
_MAX_BYTES = 4 * 2**20
_MAX_MEMORY_MIB = 2**30
_MAX_LINE = 4096
_SECONDS = 5.0
_LINE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
# Only where a word begins: at each letter of a long word the search for its end would begin again.
_LABEL = re.compile(r'(?<![A-Za-z0-9_])([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
# What tells devices apart, in the words of the three exporters.
_DEVICE = ("UUID", "gpu", "GPU_I_ID", "gpu_id", "serial_number", "Serial")
# Percent of use, and MiB of memory, by metric: see `exporters`.
_USE = {
    "DCGM_FI_DEV_GPU_UTIL": 1.0,
    "gpu_gfx_activity": 1.0,
    "amd_gpu_gfx_activity": 1.0,
    "habanalabs_utilization": 1.0,
}
_USE_OF_INSTANCES = {"DCGM_FI_PROF_GR_ENGINE_ACTIVE": 100.0}
_MEMORY = {"DCGM_FI_DEV_FB_USED": 1.0, "gpu_used_vram": 1.0, "amd_gpu_used_vram": 1.0}
_MEMORY |= {"habanalabs_memory_used_bytes": 2**-20}
_KNOWN = frozenset((*_USE, *_USE_OF_INSTANCES, *_MEMORY))


class GpuReading(NamedTuple):
    """All GPUs of a machine at a time: GPUs in use, as a sum of shares, and MiB of their memory."""

    gpus: float
    memory_mib: float


def read_page(text: str) -> GpuReading | None:
    """What an exporter's page says; None where it measures no GPU. What can't be measured, or read, is left out."""
    used: dict[tuple[str, ...], float] = {}
    memory: dict[tuple[str, ...], float] = {}
    for name, labels, value in _samples(text):
        device = tuple(labels.get(each, "") for each in _DEVICE)
        if name in _MEMORY and 0 <= (mib := value * _MEMORY[name]) <= _MAX_MEMORY_MIB:
            memory[device] = max(memory.get(device, 0.0), mib)
        unit = (_USE_OF_INSTANCES if labels.get("GPU_I_ID") else _USE).get(name)
        if unit is not None and 0 <= (percent := value * unit) <= 100:
            used[device] = max(used.get(device, 0.0), percent)
    return GpuReading(sum(used.values()) / 100, sum(memory.values())) if used else None


class GpuExporter:
    """Reads the page at `url` at each call of `look`, and keeps the use of each hour. Used in one thread; `look` blocks."""

    def __init__(self, url: str, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._url = urlsplit(url)
        self._database = database
        self._clock = clock
        self._node = platform.node()[:253] or "localhost"
        self._hour = 0
        self._readings = 0
        self._values: dict[str, float] = {}
        self._failed = False

    def look(self) -> None:
        """Read once. A page that can't be read is logged when that begins."""
        try:
            reading = read_page(self._read())
        except (OSError, HTTPException, ValueError) as error:
            if not self._failed:
                _log.warning("the use of GPUs can't be read at %s: %s", self._url.geturl(), str(error)[:200])
            self._failed = True
            return
        self._failed = False
        if reading is not None:
            self._add(reading)

    def _add(self, reading: GpuReading) -> None:
        hour = int(self._clock()) // HOUR * HOUR
        if hour != self._hour:
            self._hour, self._readings, self._values = hour, 0, {}
        self._readings += 1
        for name, value in (("gpus", reading.gpus), ("memory_mib", reading.memory_mib)):
            average = self._values.get(f"avg_{name}", 0.0)
            self._values[f"avg_{name}"] = average + (value - average) / self._readings
            self._values[f"max_{name}"] = max(self._values.get(f"max_{name}", 0.0), value)
        put_gpu_use(self._database, hour, self._node, self._values)

    def _read(self) -> str:
        with bounded_connection(self._url, _SECONDS) as connection:
            connection.request("GET", self._url.path or "/metrics", headers={"user-agent": "llmariner"})
            with connection.getresponse() as response:
                text = read_whole(response, _MAX_BYTES)
                if response.status != 200:
                    raise HTTPException(f"status {response.status}")
                return text.decode(errors="replace")


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for line in text.splitlines():
        if len(line) > _MAX_LINE or line.startswith("#") or (found := _LINE.fullmatch(line.strip())) is None:
            continue
        if found[1] not in _KNOWN:
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if math.isfinite(value):
            yield found[1], dict(_LABEL.findall(found[2] or "")), value
