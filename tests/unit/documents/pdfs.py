"""PDF documents, written by hand: pypdf writes none with text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

__all__ = ["pdf"]


def pdf(pages: Sequence[str], outline: Sequence[tuple[str, int]] = ()) -> bytes:
    """A PDF with a page for each text. `outline`: titles and the indexes of their pages, all of one level."""
    first_page = 4
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R %s>>" % (b"/Outlines %d 0 R " % _outline_id(pages) if outline else b""),
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (first_page + 2 * index) for index in range(len(pages)))),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding "
        b"<< /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [1 /fi] >> >>",
    }
    for index, text in enumerate(pages):
        page = first_page + 2 * index
        objects[page] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Contents %d 0 R >>" % (page + 1)
        )
        objects[page + 1] = _stream(_content(text))
    if outline:
        objects |= _outline(_outline_id(pages), outline, first_page)
    return _file(objects)


def _outline_id(pages: Sequence[str]) -> int:
    return 4 + 2 * len(pages)


def _outline(root: int, outline: Sequence[tuple[str, int]], first_page: int) -> dict[int, bytes]:
    last = root + len(outline)
    objects = {root: b"<< /Type /Outlines /First %d 0 R /Last %d 0 R /Count %d >>" % (root + 1, last, len(outline))}
    for number, (title, page) in enumerate(outline, start=root + 1):
        following = b"/Next %d 0 R " % (number + 1) if number < last else b""
        objects[number] = b"<< /Title (%s) /Parent %d 0 R %s/Dest [%d 0 R /Fit] >>" % (
            title.encode("latin-1"),
            root,
            following,
            first_page + 2 * page,
        )
    return objects


def _content(text: str) -> bytes:
    lines = []
    for line in text.split("\n"):
        escaped = line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        lines.append(b"(%s) Tj T*" % escaped.replace("ﬁ", "\\001").encode("cp1252"))
    return b"BT /F1 11 Tf 14 TL 50 740 Td\n" + b"\n".join(lines) + b"\nET"


def _stream(data: bytes) -> bytes:
    packed = zlib.compress(data)
    return b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed)


def _file(objects: dict[int, bytes]) -> bytes:
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number in sorted(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)
