"""Every relative link in a page leads somewhere: to a file, and to a heading of it where one is named."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

CHECKOUT = Path(__file__).parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
CODE = re.compile(r"`[^`\n]*`")


def pages() -> list[Path]:
    """The checkout's own pages, those not committed yet included; not what lies in ignored folders."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(asked, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.split()
    return [CHECKOUT / name for name in listed if (CHECKOUT / name).exists()]


def links(text: str) -> list[str]:
    """Targets of the links outside of code."""
    found = LINK.findall(CODE.sub("", FENCE.sub("", text)))
    return [target for pair in found for target in pair if target]


def anchors(text: str) -> set[str]:
    """Headings as the names that links use."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, target: str) -> bool:
    """Whether a link leads nowhere; links to other sites are not followed."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return False
    path, _, anchor = unquote(target).partition("#")
    place = page.parent / path if path else page
    return not place.exists() or bool(anchor and place.suffix == ".md" and anchor not in anchors(place.read_text()))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_relative_link_points_to_a_file(page: Path) -> None:
    assert [target for target in links(page.read_text()) if broken(page, target)] == []


def test_a_dangling_link_is_detected(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n\n[a](page.md#one-heading) [b](gone.md) [c](#two) `[d](code.md)` [e](https://x.org/)\n"
    )
    assert [target for target in links(page.read_text()) if broken(page, target)] == ["gone.md", "#two"]
