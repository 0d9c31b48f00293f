"""EPUB: the chapters of the spine, in reading order. The entries of the archive are read, never extracted to files."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote

from lxml import etree

from llmariner.documents.archives import open_archive
from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError
from llmariner.documents.formats.html import html_blocks
from llmariner.documents.source import Source

__all__ = ["read"]

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"


def read(source: Source) -> Iterator[Block]:
    """The blocks of an EPUB. Raises DocumentError."""
    with open_archive(source) as archive:
        roots = _elements(archive, _CONTAINER, "rootfile")
        package = roots[0].get("full-path", "") if roots else ""
        chapters = _chapters(archive, package)
        encrypted = _encrypted(archive)
        title = _elements(archive, package, "title")
        if title and title[0].text:
            yield Block(BlockKind.HEADING, " ".join(title[0].text.split()), level=1)
        for chapter in chapters:
            if chapter in encrypted:
                raise DocumentError.invalid("The EPUB is encrypted (DRM). Upload it without that.")
            yield from html_blocks(archive.read(chapter))


def _chapters(archive: zipfile.ZipFile, package: str) -> list[str]:
    """The names of the spine's entries in the archive (EPUB 3.3, 5.7)."""
    names = set(archive.namelist())
    folder = posixpath.dirname(package)
    items = {item.get("id"): item.get("href", "") for item in _elements(archive, package, "item")}
    found = []
    for reference in _elements(archive, package, "itemref"):
        name = posixpath.normpath(posixpath.join(folder, unquote(items.get(reference.get("idref"), ""))))
        if name in names:
            found.append(name)
    return found


def _encrypted(archive: zipfile.ZipFile) -> set[str]:
    if _ENCRYPTION not in archive.namelist():
        return set()
    return {unquote(element.get("URI", "")) for element in _elements(archive, _ENCRYPTION, "CipherReference")}


def _elements(archive: zipfile.ZipFile, name: str, tag: str) -> list[etree._Element]:
    """The elements of an XML entry that have a local name. Raises DocumentError."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(archive.read(name), parser)
    except (KeyError, etree.XMLSyntaxError, ValueError) as error:
        message = "The EPUB is damaged: its list of chapters can't be read."
        raise DocumentError.invalid(message, detail=repr(error)) from error
    return list(root.iter(f"{{*}}{tag}"))
