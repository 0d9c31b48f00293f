"""Settings: defaults, bounds, and an error message for each invalid variable."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmariner.settings
from llmariner.file_settings import FileSettings
from llmariner.job_settings import JobSettings
from llmariner.settings import (
    BrokerSettings,
    ControlPlaneSettings,
    DatabaseSettings,
    GatewaySettings,
    KServeSettings,
    Secret,
    SecretSettings,
    ServingSettings,
    StandaloneSettings,
    UsageSettings,
    environment,
)

GOOD = {"LLMARINER_PEPPER": "p" * 32, "LLMARINER_SERVICE_SECRET": "s" * 32}


def test_an_empty_environment_has_the_documented_defaults() -> None:
    home = StandaloneSettings.load({})
    assert (home.host, home.port) == ("127.0.0.1", 8080)
    assert home.root == Path.home() / ".llmariner"
    assert home.cache == Path.home() / ".cache" / "llmariner"
    gateway = GatewaySettings.load({})
    assert gateway == GatewaySettings()
    assert (gateway.body_limit, gateway.wait_budget, gateway.wait_limit) == (8 * 1024 * 1024, 60.0, 900.0)
    assert ServingSettings.load({}) == ServingSettings()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
        ("[::1]", "http://[::1]:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),  # noqa: S104 - what an operator may write
        ("::", "http://[::1]:8080"),
        ("platform.test", "http://platform.test:8080"),
    ],
)
def test_the_default_url_is_the_standalone_platforms(host: str, url: str) -> None:
    assert StandaloneSettings.load({"LLMARINER_HOST": host}).base_url == url


def test_an_empty_variable_is_unset() -> None:
    assert GatewaySettings.load({"LLMARINER_BODY_LIMIT": ""}) == GatewaySettings()
    assert StandaloneSettings.load(
        {"LLMARINER_HOST": "", "LLMARINER_PORT": "", "LLMARINER_HOME": ""}
    ) == StandaloneSettings.load({})
    assert ServingSettings.load({"LLMARINER_SERVING": "", "LLMARINER_SERVING_STATIC": ""}) == ServingSettings()


NUMBERS: list[tuple[Callable[[Any], Any], str, str, float]] = [
    (StandaloneSettings.load, "LLMARINER_PORT", "port", 1),
    (UsageSettings.load, "LLMARINER_USAGE_DAYS", "days", 1),
    (FileSettings.load, "LLMARINER_ARCHIVED_PROJECT_DAYS", "archived_days", 1),
    (FileSettings.load, "LLMARINER_PROJECT_FILES", "project_files", 0),
    (JobSettings.load, "LLMARINER_PROJECT_TRAINED_MODELS", "project_trained_models", 0),
    (GatewaySettings.load, "LLMARINER_BODY_LIMIT", "body_limit", 1024),
    (GatewaySettings.load, "LLMARINER_WAIT_SECONDS", "wait_budget", 0),
    (GatewaySettings.load, "LLMARINER_WAIT_LIMIT_SECONDS", "wait_limit", 0),
    (GatewaySettings.load, "LLMARINER_HEARTBEAT_SECONDS", "heartbeat", 0.05),
    (GatewaySettings.load, "LLMARINER_ROOM_PER_MODEL", "waiting_room_per_model", 1),
    (GatewaySettings.load, "LLMARINER_ROOM_PER_TENANT", "waiting_room_per_tenant", 1),
    (GatewaySettings.load, "LLMARINER_REQUESTS_PER_MINUTE", "requests_per_minute", 1),
    (GatewaySettings.load, "LLMARINER_TOKENS_PER_MINUTE", "tokens_per_minute", 1),
    (ServingSettings.load, "LLMARINER_IDLE_SECONDS", "idle_seconds", 0),
    (ServingSettings.load, "LLMARINER_ENGINE_THREADS", "threads", 0),
]


@pytest.mark.parametrize(("load", "name", "field", "least"), NUMBERS, ids=[row[1] for row in NUMBERS])
def test_a_number_may_be_its_minimum(load: Callable[[Any], Any], name: str, field: str, least: float) -> None:
    for value in (least, least + 3):
        assert getattr(load({name: f"{value:g}"}), field) == value


@pytest.mark.parametrize(("load", "name", "field", "least"), NUMBERS, ids=[row[1] for row in NUMBERS])
def test_a_number_below_its_minimum_is_rejected_with_its_name(
    load: Callable[[Any], Any], name: str, field: str, least: float
) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least {least:g}, not"):
        load({name: f"{least - 0.5:g}"})


@pytest.mark.parametrize(("load", "name", "field", "least"), NUMBERS, ids=[row[1] for row in NUMBERS])
@pytest.mark.parametrize("text", ["many", "1,5", "0x10", "--"])
def test_a_value_that_is_not_a_number_is_rejected_with_its_name(
    load: Callable[[Any], Any], name: str, field: str, least: float, text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} must be a number, not {text!r}.")):
        load({name: text})


@pytest.mark.parametrize(("load", "name", "field", "least"), NUMBERS, ids=[row[1] for row in NUMBERS])
@pytest.mark.parametrize("text", ["nan", "inf", "1e999"])
def test_a_number_without_a_value_is_rejected_with_its_name(
    load: Callable[[Any], Any], name: str, field: str, least: float, text: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        load({name: text})


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (FileSettings.load, "LLMARINER_PROJECT_FILES"),
        (FileSettings.load, "LLMARINER_PROJECT_FILE_BYTES"),
        (FileSettings.load, "LLMARINER_FILE_LINK_REQUESTS_PER_MINUTE"),
        (JobSettings.load, "LLMARINER_PROJECT_TRAINED_MODELS"),
    ],
)
def test_a_limit_that_is_turned_off_by_0_is_not_turned_off_by_a_fraction(load: Callable[[Any], Any], name: str) -> None:
    for text in ("0.5", "1e-9", "2.5"):
        with pytest.raises(ValueError, match=rf"^{name} must be a whole number, not {text}\.$"):
            load({name: text})
    assert load({name: "2e6"}) == load({name: "2000000"})


def test_the_memory_budget_is_in_gibibytes() -> None:
    assert ServingSettings.load({"LLMARINER_MEMORY_GIB": "1.5"}).memory_bytes == 3 * 2**29
    with pytest.raises(ValueError, match=r"^LLMARINER_MEMORY_GIB must be at least 0"):
        ServingSettings.load({"LLMARINER_MEMORY_GIB": "-1"})


def test_a_port_is_at_most_65535() -> None:
    assert StandaloneSettings.load({"LLMARINER_PORT": "65535"}).port == 65535
    with pytest.raises(ValueError, match=r"^LLMARINER_PORT must be at most 65535, not 65536\.$"):
        StandaloneSettings.load({"LLMARINER_PORT": "65536"})


def test_folders_are_absolute_and_expand_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = StandaloneSettings.load({"LLMARINER_HOME": "~/here", "LLMARINER_CACHE": "there"})
    assert (home.root, home.cache) == (tmp_path / "here", tmp_path / "there")
    assert StandaloneSettings.load({"XDG_CACHE_HOME": "/var/cache/me"}).cache == Path("/var/cache/me/llmariner")


def test_a_database_is_required() -> None:
    with pytest.raises(ValueError, match=r"^LLMARINER_DATABASE_URL is not set"):
        DatabaseSettings.load({})
    loaded = DatabaseSettings.load({"LLMARINER_DATABASE_URL": "sqlite:///x", "LLMARINER_DATABASE_POOL": "2"})
    assert (loaded.url, loaded.pool_size) == ("sqlite:///x", 2)
    with pytest.raises(ValueError, match=r"^LLMARINER_DATABASE_POOL must be at least 1"):
        DatabaseSettings.load({"LLMARINER_DATABASE_URL": "sqlite:///x", "LLMARINER_DATABASE_POOL": "0"})


@pytest.mark.parametrize("url", ["", "gateway", "https://gateway", "ftp://gateway"])
def test_the_control_plane_url_is_an_http_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"^LLMARINER_CONTROL_URL must be the http:// URL"):
        ControlPlaneSettings.load({"LLMARINER_CONTROL_URL": url})


def test_the_control_plane_url_loses_its_trailing_slash() -> None:
    assert ControlPlaneSettings.load({"LLMARINER_CONTROL_URL": "http://gateway/"}).url == "http://gateway"


def test_a_broker_is_an_http_url_or_none() -> None:
    assert BrokerSettings.load({}).url == ""
    assert BrokerSettings.load({"LLMARINER_BROKER_URL": "http://broker/ns/default"}).url == "http://broker/ns/default"
    for url in ("broker", "amqp://broker"):
        with pytest.raises(ValueError, match=r"^LLMARINER_BROKER_URL must be the http:// URL"):
            BrokerSettings.load({"LLMARINER_BROKER_URL": url})


def test_every_variable_is_documented_where_it_is_read() -> None:
    code = Path(llmariner.settings.__file__).read_text()
    read = set(re.findall(r'env(?:\.get\(|, )"(LLMARINER_\w+)"', code))
    documented = set(re.findall(r"`(LLMARINER_\w+)`", code))
    assert len(read) > 20
    assert read - documented == set()


@pytest.mark.parametrize("adapter", ["remote", "static", "kserve", "processes"])
def test_a_serving_adapter_is_one_of_four(adapter: str) -> None:
    assert ServingSettings.load({"LLMARINER_SERVING": adapter}).adapter == adapter
    with pytest.raises(ValueError, match=r"^LLMARINER_SERVING must be .* or remote, not 'nomad'\.$"):
        ServingSettings.load({"LLMARINER_SERVING": "nomad"})


@pytest.mark.parametrize(
    "env",
    [{"LLMARINER_ACCELERATOR": "tpu"}, {"LLMARINER_RUNTIMES": "{"}, {"LLMARINER_RUNTIMES": "[]"}],
)
def test_kserve_settings_are_validated_at_the_start(env: dict[str, str]) -> None:
    (name,) = env
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        KServeSettings.load(env)


def test_only_zero_disables_preloading() -> None:
    found = [ServingSettings.load({"LLMARINER_WARM_PARENT": text}).warm for text in ("0", "1", "")]
    assert found == [False, True, True]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [None, "", "short", "x" * 31])
def test_a_missing_or_short_secret_is_rejected_with_its_name(name: str, value: str | None) -> None:
    env = {key: text for key, text in {**GOOD, name: value}.items() if text is not None}
    with pytest.raises(ValueError, match=rf"^{name} \(or {name}_FILE\) must hold at least 32 characters") as refused:
        SecretSettings.load(env)
    if value:
        assert value not in str(refused.value)


def test_a_secret_is_read_from_a_named_file(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("f" * 40 + "\n")
    loaded = SecretSettings.load({**GOOD, "LLMARINER_PEPPER_FILE": str(tmp_path / "pepper")})
    assert loaded.pepper.reveal() == "f" * 40
    assert loaded.service.reveal() == "s" * 32


def test_a_previous_secret_is_optional_and_as_long(tmp_path: Path) -> None:
    loaded = SecretSettings.load(GOOD)
    assert (loaded.previous_service, loaded.of_links) == (Secret(""), (loaded.service,))
    (tmp_path / "previous").write_text("o" * 32)
    named = {"LLMARINER_PREVIOUS_SERVICE_SECRET_FILE": str(tmp_path / "previous")}
    rotated = SecretSettings.load({**GOOD, **named})
    assert rotated.of_links == (loaded.service, Secret("o" * 32))
    with pytest.raises(ValueError, match=r"^LLMARINER_PREVIOUS_SERVICE_SECRET "):
        SecretSettings.load({**GOOD, "LLMARINER_PREVIOUS_SERVICE_SECRET": "short"})


def test_secrets_are_hidden_in_every_representation() -> None:
    loaded = SecretSettings.load(GOOD)
    for shown in (repr(loaded), str(loaded), f"{loaded.pepper}", f"{loaded.pepper!r}", "%s" % loaded.service):  # noqa: UP031
        assert "ppp" not in shown
        assert "sss" not in shown
    assert bool(loaded.pepper)
    assert not Secret("")


def test_a_generated_secret_is_long_enough_and_unique() -> None:
    made = {SecretSettings.generate() for _ in range(10)}
    assert len(made) == 10
    assert all(len(secret) == 64 for secret in made)
    SecretSettings.load({"LLMARINER_PEPPER": made.pop(), "LLMARINER_SERVICE_SECRET": made.pop()})


def test_the_default_environment_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_PORT", "1234")
    assert StandaloneSettings.load(environment()).port == 1234


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "http://prometheus:web", "http://[::1", "http://h:99999", "http://:80", "https://"]
)
def test_a_url_without_a_host_or_a_valid_port_is_refused_where_it_is_set(url: str) -> None:
    with pytest.raises(ValueError, match="LLMARINER_PROMETHEUS_URL"):
        KServeSettings.load({"LLMARINER_PROMETHEUS_URL": url})
    assert KServeSettings.load({"LLMARINER_PROMETHEUS_URL": "http://[::1]:9090/"}).prometheus == "http://[::1]:9090"
