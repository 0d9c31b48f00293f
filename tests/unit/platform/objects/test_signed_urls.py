"""Tokens for one object: what they allow, until when, and that nobody can change them."""

from __future__ import annotations

import base64
import json
import time

import pytest

from llmariner.platform.objects.signed_urls import (
    DownloadToken,
    InvalidToken,
    UploadToken,
    read_token,
    sign_download,
    sign_upload,
)
from llmariner.settings import Secret

SECRET = Secret("s" * 32)


def download(seconds: int = 60) -> str:
    return sign_download(SECRET, "files/file_1", seconds=seconds, file_name='Über \0"x".pdf', content_type="text/plain")


def test_a_token_says_what_it_was_signed_for() -> None:
    assert read_token(SECRET, download()) == DownloadToken("files/file_1", 'Über \0"x".pdf', "text/plain")
    token = sign_upload(SECRET, "uploads/part_1", seconds=60, size=5)
    assert read_token(SECRET, token) == UploadToken("uploads/part_1", 5)


def test_a_token_is_one_segment_of_a_path() -> None:
    assert set(download()) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    token = download(60)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 58)
    read_token(SECRET, token)
    monkeypatch.setattr("time.time", lambda: now + 61)
    with pytest.raises(InvalidToken, match="expired"):
        read_token(SECRET, token)


def test_no_changed_token_is_valid() -> None:
    token = download()
    for at in range(len(token)):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(InvalidToken):
            read_token(SECRET, changed)


def test_a_token_of_another_secret_is_not_valid() -> None:
    with pytest.raises(InvalidToken):
        read_token(Secret("t" * 32), download())


FOREIGN = ["", ".", "a", "a.b", "a.b.c", "é.é", "\0", "=" * 10, "x" * 10_000, base64.b64encode(b"{}").decode() + "."]


@pytest.mark.parametrize("token", FOREIGN)
def test_a_foreign_text_is_no_token(token: str) -> None:
    with pytest.raises(InvalidToken):
        read_token(SECRET, token)


def test_a_longer_expiry_needs_a_new_signature() -> None:
    payload, signature = download().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["until"] += 1
    changed = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidToken):
        read_token(SECRET, f"{changed}.{signature}")


@pytest.mark.parametrize("seconds", [0, -1, 7 * 24 * 3600 + 1])
def test_a_token_is_valid_for_at_most_a_week(seconds: int) -> None:
    with pytest.raises(ValueError, match="valid for"):
        download(seconds)


def test_only_keys_and_sizes_of_objects_are_signed() -> None:
    with pytest.raises(ValueError, match="not a key"):
        sign_upload(SECRET, "../x", seconds=1, size=1)
    with pytest.raises(ValueError, match="at least 0"):
        sign_upload(SECRET, "files/x", seconds=1, size=-1)
    with pytest.raises(ValueError, match="too long"):
        sign_download(SECRET, "files/x", seconds=1, file_name="x" * 10_000, content_type="")
