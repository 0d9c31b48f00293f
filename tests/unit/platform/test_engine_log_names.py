"""Each engine writes into a log of its own."""

from __future__ import annotations

from llmariner.platform.serving.local_processes.engine import log_name


def test_every_model_has_its_own_log() -> None:
    ids = ["a/b", "a:b", "a_b", "A/b", "m", "m@proj_a", "m@proj_b", "m_proj_a", "x" * 200, "x" * 200 + "@proj_a"]
    names = [log_name(model_id) for model_id in ids]
    assert len({name.lower() for name in names}) == len(ids)
    assert all(len(name) < 200 and name.isascii() and "/" not in name and "@" not in name for name in names)
    assert log_name("org/tiny").startswith("engine-org_tiny-")
