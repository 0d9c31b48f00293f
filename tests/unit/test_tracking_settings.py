"""Settings of tracking servers."""

from __future__ import annotations

import pytest

from llmariner.tracking_settings import TrackingSettings

NAME = "LLMARINER_MLFLOW_SERVERS"


def test_servers_are_urls_without_a_slash_at_the_end() -> None:
    assert TrackingSettings.load({}).servers("mlflow") == ()
    loaded = TrackingSettings.load({NAME: "https://a.example/, http://b:5000/mlflow ,https://a.example"})
    assert loaded.servers("mlflow") == ("https://a.example", "http://b:5000/mlflow")
    assert loaded.servers("comet") == ()
    assert loaded.servers("wandb") == ("https://api.wandb.ai",)
    assert TrackingSettings.load({"LLMARINER_WANDB_SERVER": "https://w.example/"}).servers("wandb") == (
        "https://w.example",
    )
    assert TrackingSettings.load({"LLMARINER_WANDB_SERVER": "off"}).servers("wandb") == ()


@pytest.mark.parametrize(
    "url",
    [
        "a.example",
        "ftp://a",
        "https://",
        "https://u:p@a",
        "https://a?x=1",
        "https://a#x",
        "https://a:0",
        "https://a:x",
        "https://a/b c",
        f"https://{'a' * 200}",
    ],
)
def test_anything_else_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match=NAME):
        TrackingSettings.load({NAME: url})
