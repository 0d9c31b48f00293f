"""The settings of links to files."""

from __future__ import annotations

import pytest

from llmariner.file_settings import FileSettings


def test_links_are_valid_for_at_most_a_week() -> None:
    assert FileSettings.load({}).link_seconds == 7 * 86_400
    assert FileSettings.load({"LLMARINER_FILE_LINK_SECONDS": "60"}).link_seconds == 60
    for value in ("0", "-1", "604801", "long"):
        with pytest.raises(ValueError, match="LLMARINER_FILE_LINK_SECONDS"):
            FileSettings.load({"LLMARINER_FILE_LINK_SECONDS": value})


def test_the_public_url_is_a_url() -> None:
    assert (
        FileSettings.load({"LLMARINER_PUBLIC_URL": "https://api.example.org/"}).public_url == "https://api.example.org"
    )
    with pytest.raises(ValueError, match="LLMARINER_PUBLIC_URL"):
        FileSettings.load({"LLMARINER_PUBLIC_URL": "api.example.org"})
