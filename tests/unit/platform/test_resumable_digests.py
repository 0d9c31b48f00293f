"""Digests that another process continues are those of hashlib."""

from __future__ import annotations

import hashlib
import random

import pytest

from llmariner.platform.model_files import FilesUnavailable, RemoteFile
from llmariner.platform.model_files.resumable_digests import ResumableDigests

CONTENT = random.Random(3).randbytes(300_001)
GIT = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT, usedforsecurity=False).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def file(**digests: str) -> RemoteFile:
    return RemoteFile("x", len(CONTENT), "u", **digests)


@pytest.mark.parametrize("digests", [{}, {"sha256": SHA256}, {"git_sha1": GIT}, {"md5": MD5}])
def test_a_digest_is_continued_at_any_byte(digests: dict[str, str]) -> None:
    said, state = file(**digests), ""
    cuts = sorted({0, 1, 63, 64, 65, 127, 4096, len(CONTENT) - 1, *random.Random(4).sample(range(len(CONTENT)), 20)})
    for begin, end in zip(cuts, [*cuts[1:], len(CONTENT)], strict=True):
        continued = ResumableDigests(said, state)
        continued.update(CONTENT[begin:end])
        state = continued.state
    assert ResumableDigests(said, state).finish() == (SHA256, "")


@pytest.mark.parametrize(
    ("digests", "name"), [({"sha256": SHA256}, "SHA-256"), ({"git_sha1": GIT}, "Git digest"), ({"md5": MD5}, "MD5")]
)
def test_another_content_is_named(digests: dict[str, str], name: str) -> None:
    found = ResumableDigests(file(**digests))
    found.update(CONTENT[:-1] + b"!")
    assert found.finish()[1] == name


def test_a_state_for_other_digests_is_refused() -> None:
    with pytest.raises(FilesUnavailable, match="another kind of machine"):
        ResumableDigests(file(md5=MD5), ResumableDigests(file()).state)
