"""The benchmark of transfers sends a file to each server and reads it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import transfers
from .results import Results
from .run import Bounds


def test_all_servers_take_and_return_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "SIZE", 3_000_000)
    results = Results()
    transfers.measure_forms(results, tmp_path, Bounds(1, 0))
    assert not results.skipped
    assert results.subjects("upload_bytes_per_s", "download_bytes_per_s") == [
        transfers.BARE,
        transfers.DURABLE,
        transfers.FILES,
    ]
    assert all(0 < results.figures["peak_mib"][name][0] < 1024 for name in results.subjects("peak_mib"))
