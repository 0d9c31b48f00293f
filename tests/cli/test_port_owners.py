"""The administrator's key is sent to a process of the same user only; sending a key without TLS prints a warning."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.cli.support.api import ApiClient
from llmariner.cli.support.configuration import resolve_target
from llmariner.cli.support.errors import ExitCode
from llmariner.cli.support.port_owners import listening_uids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.conftest import FakePlatform, Llma

KEY = "sk-admin-key-of-this-machine"
OTHER_UID = 65534
LINUX = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system has no /proc/net/tcp")


@pytest.fixture
def admin_key_file(home: Path) -> None:
    (home / ".llmariner").mkdir(exist_ok=True)
    (home / ".llmariner/admin.key").write_text(KEY)


@pytest.fixture
def foreign_listener() -> Iterator[socket.socket]:
    """A port of another user: a socket belongs to the effective user of its creation."""
    if os.geteuid() != 0:
        pytest.skip("only root acts as somebody else")
    os.seteuid(OTHER_UID)
    try:
        server = socket.create_server(("127.0.0.1", 0))
    finally:
        os.seteuid(0)
    with server:
        yield server


@LINUX
def test_the_administrators_key_is_not_sent_to_another_users_process(
    bare_llma: Llma, admin_key_file: None, foreign_listener: socket.socket
) -> None:
    result = bare_llma("models", "list", "--endpoint", f"http://127.0.0.1:{foreign_listener.getsockname()[1]}/v1")
    assert result.code == ExitCode.DENIED
    assert f"uid {OTHER_UID}" in result.err
    foreign_listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        foreign_listener.accept()


@LINUX
def test_the_administrators_key_is_not_sent_to_a_port_without_a_listener(home: Path, admin_key_file: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    target = resolve_target(
        {"HOME": str(home), "LLMARINER_HOME": str(home / ".llmariner")}, endpoint=f"http://127.0.0.1:{port}/v1"
    )
    assert target.own_listener_only
    with ApiClient(target) as api:
        assert "authorization" not in api._client.headers


def test_names_below_localhost_get_no_administrators_key(bare_llma: Llma, admin_key_file: None) -> None:
    assert bare_llma("auth", "token", "--endpoint", "http://platform.localhost:8080/v1").code == ExitCode.DENIED


def test_the_owner_of_a_port_is_read_from_the_kernels_tables(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    row = (
        "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5d}        0 1\n"
    )
    loopback, any6 = "0100007F", "0" * 32
    (tmp_path / "tcp").write_text(
        head
        + row.format(address=loopback, port=8080, state="0A", uid=1000)
        + row.format(address=loopback, port=8080, state="01", uid=7)
        + row.format(address=loopback, port=8081, state="0A", uid=8)
    )
    assert listening_uids(8080, tmp_path) == frozenset({1000})
    (tmp_path / "tcp6").write_text(head + row.format(address=any6, port=8080, state="0A", uid=1001))
    assert listening_uids(8080, tmp_path) == frozenset({1000, 1001})
    assert listening_uids(9, tmp_path) == frozenset()
    assert listening_uids(8080, tmp_path / "none") is None


def test_a_key_without_tls_prints_a_warning(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(endpoint: str, **environment: str) -> str:
        with ApiClient(resolve_target({"HOME": str(home), **environment}, endpoint=endpoint)):
            return capsys.readouterr().err

    assert "unencrypted" in said("http://llm.example.org/v1", LLMARINER_API_KEY="sk-mine")
    assert "unencrypted" not in said("https://llm.example.org/v1", LLMARINER_API_KEY="sk-mine")
    assert "unencrypted" not in said("http://llm.example.org/v1")


def test_no_warning_is_printed_for_loopback(bare_llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /models", {"object": "list", "data": [], "has_more": False})
    assert "unencrypted" not in bare_llma("models", "list", "--endpoint", platform.url).err
