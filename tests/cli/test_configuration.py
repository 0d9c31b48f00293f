"""The sources of endpoint and key, and the endpoints that a key is not sent to."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

STORED = "sk-stored-abcdefghijklmnopqrstuv"
ADMIN = "sk-admin-abcdefghijklmnopqrstuvw"


def write_context(home: Path, **settings: str) -> Path:
    file = home / ".config/llmariner/config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(settings))
    file.chmod(0o600)
    return file


def write_admin_key(home: Path) -> None:
    (home / ".llmariner").mkdir(exist_ok=True)
    (home / ".llmariner/admin.key").write_text(ADMIN + "\n")


def key_sent(platform: FakePlatform) -> str | None:
    return platform.requests[-1].headers.get("authorization")


@pytest.fixture(autouse=True)
def _models(platform: FakePlatform) -> None:
    platform.respond("GET /models", {"object": "list", "data": [], "has_more": False})


def test_the_option_takes_precedence_over_the_environment_and_the_file(
    bare_llma: Llma, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def source() -> tuple[str, str]:
        shown = bare_llma("context", "get", "-o", "json").json
        return shown["endpoint"], shown["endpoint_source"]

    assert source() == ("http://localhost:8080/v1", "the default")
    monkeypatch.setenv("LLMARINER_PORT", "9999")
    assert source() == ("http://localhost:9999/v1", "the default")
    file = write_context(home, endpoint="http://file/v1/")
    assert source() == ("http://file/v1", str(file))
    monkeypatch.setenv("LLMARINER_BASE_URL", "http://env/v1")
    assert source() == ("http://env/v1", "LLMARINER_BASE_URL")
    flagged = bare_llma("--endpoint", "http://flag/v1", "context", "get", "-o", "json").json
    assert (flagged["endpoint"], flagged["endpoint_source"]) == ("http://flag/v1", "--endpoint")


def test_the_environments_key_takes_precedence_over_the_files_and_the_administrators(
    bare_llma: Llma, home: Path, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMARINER_BASE_URL", platform.url)
    write_admin_key(home)
    assert bare_llma("models", "list").code == 0
    assert key_sent(platform) == f"Bearer {ADMIN}"
    write_context(home, api_key=STORED)
    bare_llma("models", "list")
    assert key_sent(platform) == f"Bearer {STORED}"
    monkeypatch.setenv("LLMARINER_API_KEY", "sk-environment")
    bare_llma("models", "list")
    assert key_sent(platform) == "Bearer sk-environment"


def test_an_empty_key_is_unset(bare_llma: Llma, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_admin_key(home)
    monkeypatch.setenv("LLMARINER_API_KEY", " ")
    assert bare_llma("auth", "token", "-o", "json").json["source"] == str(home / ".llmariner/admin.key")
    (home / ".llmariner/admin.key").write_text("\n")
    assert bare_llma("auth", "token").code == 3


def test_a_stored_key_is_sent_to_its_own_endpoint_only(bare_llma: Llma, home: Path, platform: FakePlatform) -> None:
    write_context(home, endpoint="https://llm.example.com/v1", api_key=STORED)
    assert bare_llma("models", "list", "--endpoint", platform.url).code == 0
    assert key_sent(platform) is None


def test_the_administrators_key_is_sent_to_this_machine_only(bare_llma: Llma, home: Path) -> None:
    write_admin_key(home)
    for endpoint in ("http://10.0.0.1/v1", "https://localhost.example.com/v1", "http://user@evil.example/v1"):
        assert bare_llma("auth", "token", "--endpoint", endpoint).code == 3
    for endpoint in ("http://localhost:1/v1", "http://127.0.0.1/v1", "http://[::1]:8080/v1"):
        assert bare_llma("auth", "token", "--endpoint", endpoint).code == 0


def test_organization_and_project_are_headers(bare_llma: Llma, home: Path, platform: FakePlatform) -> None:
    write_context(home, endpoint=platform.url, organization="org_1", project="proj_1")
    bare_llma("models", "list")
    headers = platform.requests[-1].headers
    assert (headers["openai-organization"], headers["openai-project"]) == ("org_1", "proj_1")


def test_a_new_key_is_created_in_the_contexts_organization_and_project(
    bare_llma: Llma, home: Path, platform: FakePlatform
) -> None:
    write_context(home, endpoint=platform.url, organization="org_1", project="proj_1")
    platform.respond("POST /api_keys", {"id": "key_1", "secret": "s"})
    bare_llma("auth", "api-keys", "create", "ci")
    headers = platform.requests[-1].headers
    assert (headers["openai-organization"], headers["openai-project"]) == ("org_1", "proj_1")
    assert platform.requests[-1].body == {"name": "ci"}


def test_no_proxy_is_used_for_this_machine(llma: Llma, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert llma("models", "list").code == 0


def test_the_token_is_masked_by_default(llma: Llma, api_key: str) -> None:
    masked = llma("auth", "token")
    assert api_key not in masked.out + masked.err
    assert masked.out.startswith(api_key[:7])
    assert "LLMARINER_API_KEY" in masked.err
    assert llma("auth", "token", "--show").out == f"{api_key}\n"
    assert llma("auth", "token", "--show").err == ""
    assert api_key not in llma("auth", "token", "-o", "json").out
    assert llma("auth", "token", "--show", "-o", "json").json["api_key"] == api_key


def test_a_short_key_is_masked_completely(llma: Llma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_API_KEY", "short-secret")
    assert llma("auth", "token").out == "********\n"


def test_set_stores_values_in_a_private_file(bare_llma: Llma, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "elsewhere"))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{STORED}\n"))
    result = bare_llma("context", "set", "--endpoint", "http://h/v1/", "--api-key", "-", "--project", "p")
    file = home / "elsewhere/llmariner/config.yaml"
    assert result.code == 0, result.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert yaml.safe_load(file.read_text()) == {"endpoint": "http://h/v1", "api_key": STORED, "project": "p"}
    assert [entry.name for entry in file.parent.iterdir()] == ["config.yaml"]
    shown = bare_llma("context", "get")
    assert "http://h/v1" in shown.out
    assert STORED not in shown.out + shown.err + result.out + result.err


def test_set_keeps_unknown_fields_and_removes_empty_ones(bare_llma: Llma, home: Path) -> None:
    file = write_context(home, project="p", organization="o", issuer="kept")
    assert bare_llma("context", "set", "--project", "").code == 0
    assert yaml.safe_load(file.read_text()) == {"organization": "o", "issuer": "kept"}


def test_a_stored_key_is_not_sent_to_a_changed_endpoint(bare_llma: Llma, home: Path) -> None:
    file = write_context(home, endpoint="https://one.example/v1", api_key=STORED)
    assert bare_llma("context", "set", "--endpoint", "https://one.example:443/v2").code == 0
    assert yaml.safe_load(file.read_text())["api_key"] == STORED
    moved = bare_llma("context", "set", "--endpoint", "https://two.example/v1")
    assert "removed" in moved.err
    assert "api_key" not in yaml.safe_load(file.read_text())


def test_set_without_options_off_a_terminal_is_a_usage_error(bare_llma: Llma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert bare_llma("context", "set").code == 2


def test_a_file_readable_by_others_prints_a_warning(bare_llma: Llma, home: Path) -> None:
    file = write_context(home, api_key=STORED)
    assert "Warning" not in bare_llma("context", "get").err
    file.chmod(0o644)
    warned = bare_llma("context", "get").err
    assert warned.count("Warning") == 1
    assert f"chmod 600 {file}" in warned


@pytest.mark.parametrize("content", [b"a: [", b"- a\n- b\n", b"\xff\xfe\x00"], ids=["syntax", "list", "bytes"])
def test_an_unusable_file_is_named(content: bytes, bare_llma: Llma, home: Path) -> None:
    file = write_context(home)
    file.write_bytes(content)
    result = bare_llma("models", "list")
    assert result.code == 2
    assert str(file) in result.err


def test_an_invalid_variable_is_named(bare_llma: Llma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_PORT", "many")
    result = bare_llma("models", "list")
    assert result.code == 2
    assert "LLMARINER_PORT must be a number" in result.err
