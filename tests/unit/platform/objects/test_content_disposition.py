"""The name of a download cannot change the header that it stands in."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from llmariner.platform.objects.content_disposition import attachment

NAMES = [
    "a.pdf",
    "a b.pdf",
    'quo"te.pdf',
    "semi;colon=.pdf",
    "back\\slash.pdf",
    "Übergröße 日本.pdf",
    "100%.pdf",
    "a'b.pdf",
    "",
]


def parsed(name: str) -> str:
    """The name in the value; a browser prefers the extended parameter."""
    found = re.fullmatch(r"attachment; filename=\"[^\"\\]*\"; filename\*=UTF-8''([A-Za-z0-9%._~-]*)", attachment(name))
    assert found
    return unquote(found[1], errors="strict")


@pytest.mark.parametrize("name", NAMES)
def test_the_name_comes_back(name: str) -> None:
    assert parsed(name) == name


@pytest.mark.parametrize("name", ["a\r\nset-cookie: x=1", "a\0b", "\x1b[2J", "\ud800.txt", "a\u2028b"])
def test_the_value_is_printable_ascii(name: str) -> None:
    value = attachment(name)
    assert value.isascii()
    assert value.isprintable()


def test_of_a_long_name_the_end_remains() -> None:
    assert parsed("x" * 300 + ".pdf") == "x" * 116 + ".pdf"
    assert len(attachment("日" * 1000)) < 1400
