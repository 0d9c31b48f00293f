"""Documents that want the parser's time, memory or files: each is an error of that document, within its limits."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections.abc import Callable

import pytest

from llmariner.documents.errors import DocumentError, DocumentErrorCode
from llmariner.documents.limits import ParserLimits

from .conftest import Extract, Fail
from .offices import archive, epub, presentation, replace_part, word, workbook
from .pdfs import pdf

INVALID, UNSUPPORTED = DocumentErrorCode.INVALID_FILE, DocumentErrorCode.UNSUPPORTED_FILE
EXTERNAL = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
LAUGHS = (
    b'<!DOCTYPE x [<!ENTITY a0 "lol">'
    + b"".join(b'<!ENTITY a%d "%s">' % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 12))
    + b'<!ENTITY a "&a11;">]>'
)


def _word(*pairs: tuple[bytes, bytes]) -> bytes:
    return replace_part(word(), "word/document.xml", *pairs)


def _with_entity(dtd: bytes, kind: str) -> bytes:
    if kind == "docx":
        return _word((b"<w:document", dtd + b"<w:document"), (b"First.", b"SEE &a;"))
    if kind == "pptx":
        return replace_part(
            presentation(), "ppt/slides/slide1.xml", (b"<p:sld ", dtd + b"<p:sld "), (b">One<", b">SEE &a;<")
        )
    return replace_part(
        workbook(), "xl/worksheets/sheet1.xml", (b"<worksheet", dtd + b"<worksheet"), (b">name<", b">SEE &a;<")
    )


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx"])
def test_external_entities_are_not_read(read: Extract, fail: Fail, kind: str) -> None:
    data = _with_entity(EXTERNAL, kind)
    if kind == "xlsx":
        assert fail(data, "x").code == INVALID
    else:
        text = "\n".join(block.text for block in read(data, "x"))
        assert "SEE" in text
        assert "root:" not in text


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx"])
def test_entities_that_multiply_are_refused(fail: Fail, kind: str) -> None:
    error = fail(_with_entity(LAUGHS, kind), "x")
    assert error.code == INVALID
    assert "damaged" in error.message


def test_entities_of_html_and_epub_are_text(read: Extract) -> None:
    assert "root:" not in read(EXTERNAL.replace(b"x", b"html") + b"<html><body>SEE &a;", "x.html")[0].text
    data = epub({"a": "SEE &a;"}).replace(b"<!DOCTYPE html>", EXTERNAL.replace(b"x", b"html"))
    assert "root:" not in "".join(block.text for block in read(data, "x"))


def _page(operators: bytes) -> bytes:
    packed = zlib.compress(operators, 9)
    start, _, rest = pdf(["x"]).partition(b"5 0 obj")
    _, _, end = rest.partition(b"endobj")
    return b"%s5 0 obj\n<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream\nendobj%s" % (
        start,
        len(packed),
        packed,
        end,
    )


def _many(count: int) -> bytes:
    return archive({"[Content_Types].xml": b"", "word/document.xml": b""} | {f"word/{n}": b"" for n in range(count)})


def _inflated() -> bytes:
    noise = random.Random(1).randbytes(20_000)
    return archive({"[Content_Types].xml": b""} | {f"word/{number}": noise * 60 for number in range(240)})


CASES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "zip bomb": (
        lambda: archive({"[Content_Types].xml": b"", "word/document.xml": b"0" * 50_000_000}),
        "x.docx",
        "compressed far more",
    ),
    "zip of many MiB": (_inflated, "x.docx", "256 MiB are allowed"),
    "zip of many entries": (lambda: _many(10_001), "x.docx", "10000 are allowed"),
    "zip cut off": (lambda: word()[:9000], "x.docx", "damaged or incomplete ZIP"),
    "zip with a damaged entry": (lambda: word()[:3000] + bytes(500) + word()[3500:], "x.docx", "damaged"),
    "docx without a document": (lambda: archive({"[Content_Types].xml": b"", "word/x": b""}), "x", "damaged"),
    "encrypted office document": (
        lambda: bytes.fromhex("d0cf11e0a1b11ae1") + bytes(70_000) + "EncryptedPackage".encode("utf-16-le"),
        "x.docx",
        "is encrypted",
    ),
    "pdf of noise": (lambda: b"%PDF-1.7\n" + random.Random(1).randbytes(50_000), "x.pdf", "damaged"),
    "pdf cut off": (lambda: pdf(["x"])[:500], "x.pdf", "damaged"),
    "pdf in a circle": (lambda: pdf(["x"]).replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]"), "x.pdf", "damaged"),
    "pdf of 10,000 pages": (lambda: pdf(["x"] * 10_000), "x.pdf", "has 10000 pages; 5000 are allowed"),
    "pdf page that inflates": (lambda: _page(b"(a) Tj " * 12_000_000), "x.pdf", "too complex"),
    "text named pdf": (lambda: b"just text", "x.pdf", "named *.pdf"),
    "email of deep parts": (
        lambda: (
            b"Subject: x\n"
            + b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(300))
            + b"\nx"
        ),
        "x.eml",
        "nested too deep",
    ),
    "csv with an open quotation mark": (lambda: b'a,b\n"' + b"x\n" * 9_000_000, "x.csv", "quotation mark"),
    "more text than the limit": (lambda: b"word " * 7_000_000, "x.txt", "larger than 32 MiB"),
}


@pytest.mark.parametrize("case", CASES)
def test_invalid(fail: Fail, case: str) -> None:
    data, name, reason = CASES[case]
    error = fail(data(), name)
    assert error.code == INVALID
    assert reason in error.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (archive({"../../etc/passwd": b"x", "a.txt": b"y"}), "ZIP archive that is not docx"),
        (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600), "old Office format"),
        (b"\x89PNG\r\n\x1a\n123", "an image"),
        (b"\x1f\x8b123", "gzip"),
        (b"{\\rtf1 x}", "RTF"),
        (b"MZ\0\0abc", "neither text nor"),
        (b"a\0b", "neither text nor"),
    ],
)
def test_unsupported(fail: Fail, data: bytes, reason: str) -> None:
    error = fail(data, "x.txt")
    assert error.code == UNSUPPORTED
    assert reason in error.message


@pytest.mark.parametrize(
    ("data", "name", "blocks"),
    [
        (b"<html><body>" + b"<div>" * 100_000 + b"deep", "x.html", 1),
        (b"<html><body>" + b"<b>" * 100_000 + b"deep", "x.html", 1),
        (b"<html><body>" + b"<table><tr><td>" * 20_000 + b"deep", "x.html", 1),
        (b"<html><body>" + b"<ul><li>x" * 20_000, "x.html", 1),
        (b"<html><body><p " + b"a" * 5_000_000 + b"=x>one<p>two", "x.html", 2),
        (b" \n" * 2_000_000 + b"x", "x.txt", 1),
        (b"def f():\n" + b"\n" * 2_000_000 + b"    x", "x.py", 1),
        (b"#" * 2_000_000 + b" |" * 1_000_000, "x.md", 1),
        (b"| a |\n" * 300_000, "x.md", 1),
        (b"Subject: x\nTo: " + b"<a@b>," * 100_000 + b"\nCc: " + b'"' * 100_000 + b"\n\nx", "x.eml", 3),
        (b"<!---->" * 9000 + b"<", "x.unknown", 1),
    ],
    ids=["div", "b", "tables", "lists", "attribute", "blank", "code", "hashes", "pipes", "addresses", "comments"],
)
def test_read_in_time_in_proportion_to_its_length(read: Extract, data: bytes, name: str, blocks: int) -> None:
    found = read(data, name, limits=ParserLimits(seconds=120, cpu_seconds=10))
    assert len(found) == blocks


def test_macros_and_nested_archives_are_left_alone(read: Extract) -> None:
    bomb = archive({"word/document.xml": b"0" * 10_000_000})
    data = _word((b"First.", b"Still first."))
    with_macro = archive({"word/vbaProject.bin": b"\0", "word/embeddings/a.zip": bomb} | _parts(data))
    assert read(with_macro, "x.docm")[2].text == "Still first."


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return {name: source.read(name) for name in source.namelist()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [word, presentation, workbook, lambda: pdf(["Text"]), lambda: epub({"a": "x"})])
def test_a_damaged_document_is_read_or_is_its_own_error(read: Extract, make: Callable[[], bytes], seed: int) -> None:
    random_numbers = random.Random(seed)
    data = bytearray(make())
    for _ in range(5):
        data[random_numbers.randrange(len(data))] = random_numbers.randrange(256)
    assert _outcome(read, bytes(data)) in (None, INVALID, UNSUPPORTED)


def _outcome(read: Extract, data: bytes) -> DocumentErrorCode | None:
    try:
        read(data, "x")
    except DocumentError as error:
        return error.code
    return None
