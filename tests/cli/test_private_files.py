"""Files with keys and tokens: permissions, atomic replacement, and sign-out during a refresh of another command."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.cli.sign_in import commands
from llmariner.cli.sign_in import token_refresh as renewal
from llmariner.cli.sign_in.token_store import SignIn, SignInFile, decode_claims
from llmariner.cli.support.configuration import ContextFile
from llmariner.cli.support.errors import CommandError

if TYPE_CHECKING:
    from cli.conftest import Llma

ENDPOINT = "https://llm.example.org/v1"


def token(claims: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(claims.encode()).rstrip(b'=').decode()}.c2ln"


def ending(seconds: float) -> SignIn:
    return SignIn("https://issuer.example", "llmariner", token(json.dumps({"exp": int(time.time() + seconds)})), "r")


@pytest.fixture
def file(tmp_path: Path) -> SignInFile:
    return SignInFile(tmp_path / "llmariner/token.yaml")


def test_a_sign_out_survives_a_concurrent_refresh(file: SignInFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "_refreshed", lambda _: ending(3600))
    at_hand = ending(5)
    file.put(ENDPOINT, at_hand)
    file.put(ENDPOINT, None)
    with pytest.raises(CommandError, match="signed out meanwhile"):
        renewal.ensure_fresh(file, ENDPOINT, at_hand)
    assert file.get(ENDPOINT) is None


def test_a_platform_with_another_issuer_gets_no_token(
    llma: Llma, platform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token would be good there."""
    issuer = "https://issuer.example"
    found = {"object": "auth.configuration", "issuer": issuer, "client_id": "llmariner", "scopes": ["openid"]}
    platform.respond("GET /auth/configuration", found)
    file = SignInFile.from_environment(os.environ)
    file.put(ENDPOINT, ending(3600))
    refused = llma("auth", "login")
    assert refused.code == 3
    assert "signed in to https://llm.example.org:443" in refused.err
    assert "--same-platform" in refused.err
    monkeypatch.setattr(commands, "_sign_in_interactively", lambda *_, **__: ending(1800))
    assert llma("auth", "login", "--same-platform").code == 0
    assert llma("auth", "login", "--same-platform").code == 0
    platform.respond("GET /auth/configuration", {**found, "client_id": "its own"})
    file.put(platform.url, None)
    assert llma("auth", "login").code == 0


def test_tokens_readable_by_others_print_a_warning(file: SignInFile, capsys: pytest.CaptureFixture[str]) -> None:
    file.put(ENDPOINT, ending(3600))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.get(ENDPOINT) is not None
    assert capsys.readouterr().err == ""
    file.path.chmod(0o640)
    assert file.get(ENDPOINT) is not None
    assert "chmod 600" in capsys.readouterr().err
    file.put(ENDPOINT, ending(3600))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_symbolic_link_is_replaced_and_not_followed(file: SignInFile, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("{}")
    file.path.parent.mkdir()
    file.path.symlink_to(theirs)
    file.put(ENDPOINT, ending(3600))
    assert (theirs.read_text(), file.path.is_symlink()) == ("{}", False)


def test_a_full_disk_leaves_the_file_unchanged_and_no_other(file: SignInFile, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ContextFile(file.path.with_name("config.yaml"))
    file.put(ENDPOINT, ending(3600))
    context.write({"endpoint": ENDPOINT})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(yaml, "safe_dump", full)
    with pytest.raises(CommandError, match="No space left"):
        file.put(ENDPOINT, None)
    with pytest.raises(CommandError, match="No space left"):
        context.write({})
    assert sorted(each.name for each in file.path.parent.iterdir()) == ["config.yaml", "token.yaml"]
    assert file.get(ENDPOINT) is not None
    assert context.read() == {"endpoint": ENDPOINT}


@pytest.mark.parametrize(
    "claims", ['{"exp": 1e400}', '{"exp": NaN}', "[" * 100_000, '{"exp": ' + "9" * 5000 + "}", "{"]
)
def test_an_invalid_token_of_an_issuer_counts_as_expired(claims: str) -> None:
    assert SignIn("https://issuer.example", "llmariner", token(claims)).expires_at == 0
    assert decode_claims(token(claims)).keys() <= {"exp"}


def test_control_sequences_of_an_issuer_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    commands._show_code("https://issuer.example/\x1b]0;mine\x07", "AB\x1b[2J", "https://issuer.example/\x9b2J")
    said = capsys.readouterr().err
    assert "AB" in said
    assert said.replace("\n", "").isprintable()
