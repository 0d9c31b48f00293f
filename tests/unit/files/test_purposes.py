"""Purposes, names and media types of files."""

from __future__ import annotations

import pytest

from llmariner.errors import InvalidRequest
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import Purpose, content_check, default_expiry_seconds, parse_purpose, parse_upload_purpose


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"])
def test_a_caller_may_give_these_purposes(purpose: str) -> None:
    assert parse_upload_purpose(purpose).value == purpose


@pytest.mark.parametrize("purpose", ["assistants_output", "batch_output", "batch_job_output", "fine-tune-results"])
def test_the_platform_gives_these_purposes(purpose: str) -> None:
    assert parse_purpose(purpose).value == purpose
    with pytest.raises(InvalidRequest, match="files that it makes itself"):
        parse_upload_purpose(purpose)


@pytest.mark.parametrize("purpose", ["", "Batch", "batch ", "fine-tune-state", "x" * 9999, "\0"])
def test_another_purpose_is_refused(purpose: str) -> None:
    for parse in (parse_purpose, parse_upload_purpose):
        with pytest.raises(InvalidRequest) as error:
            parse(purpose)
        assert error.value.param == "purpose"
        assert len(error.value.message) < 500


@pytest.mark.parametrize(
    "head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF87a", b"GIF89a", b"RIFF\x01\x02\x03\x04WEBPVP8 "]
)
@pytest.mark.parametrize("size", [1, 5, 99])
def test_images_are_for_vision(head: bytes, size: int) -> None:
    check, data = content_check(Purpose.VISION), head + b"rest"
    assert check is not None
    for at in range(0, len(data), size):
        check.feed(data[at : at + size])
    check.finish()


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"RIFF\x01\x02\x03\x04WAVEfmt ", b"\x89PN", b"<svg></svg>"])
def test_other_content_is_not_for_vision(data: bytes) -> None:
    check = content_check(Purpose.VISION)
    assert check is not None
    check.feed(data)
    with pytest.raises(InvalidRequest, match="PNG, JPEG, GIF or WebP"):
        check.finish()


def test_only_batches_expire_by_themselves() -> None:
    assert [purpose for purpose in Purpose if default_expiry_seconds(purpose)] == [Purpose.BATCH]


@pytest.mark.parametrize(
    ("said", "name", "expected"),
    [
        ("text/plain; charset=utf-8", "a", "text/plain"),
        ("Application/PDF", "a.txt", "application/pdf"),
        (None, "a.pdf", "application/pdf"),
        ("application/octet-stream", "a.txt", "text/plain"),
        ("text/html\r\nx-evil: 1", "a", "application/octet-stream"),
        ("text", "a", "application/octet-stream"),
        ("a/" + "b" * 99, "a", "application/octet-stream"),
        ("tëxt/plain", "a", "application/octet-stream"),
        (None, "a.tar.gz", "application/octet-stream"),
        (None, "noending", "application/octet-stream"),
    ],
)
def test_a_media_type(said: str | None, name: str, expected: str) -> None:
    assert media_type(said, name) == expected


@pytest.mark.parametrize("name", ["", "/", "..", "a/..", "\0", " ", "\u202e", "\ud800"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="has no name"):
        clean_file_name(name)


def test_a_name_keeps_its_script() -> None:
    assert clean_file_name("dir/עברית 👩‍👩‍👧 naïve.txt") == "עברית 👩‍👩‍👧 naïve.txt"
    assert clean_file_name("x" * 255) == "x" * 255
