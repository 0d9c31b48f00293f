"""Formats that are not text: headings, tables and pages survive."""

from __future__ import annotations

import io
from email.message import EmailMessage

import pypdf
import pytest

from llmariner.documents.blocks import Block, BlockKind

from .conftest import Extract, Fail
from .offices import epub, presentation, replace_part, word, workbook
from .pdfs import pdf

HEADING, PARAGRAPH, TABLE = BlockKind.HEADING, BlockKind.PARAGRAPH, BlockKind.TABLE


def test_pdf_has_pages_and_the_headings_of_its_outline(read: Extract) -> None:
    data = pdf(
        ["1 Guide\nFirst (line)\nsecond", "Second page é\nAppendix\nThe end\nAppendix"],
        [("Guide", 0), (" Appendix ", 1)],
    )
    assert read(data, "guide.pdf") == [
        Block(HEADING, "1 Guide", 1, 1),
        Block(PARAGRAPH, "First (line)\nsecond", 1),
        Block(PARAGRAPH, "Second page é", 2),
        Block(HEADING, "Appendix", 2, 1),
        Block(PARAGRAPH, "The end\nAppendix", 2),
    ]


def test_pdf_that_only_forbids_changes_is_read_and_an_encrypted_one_is_not(read: Extract, fail: Fail) -> None:
    plain = pdf(["Text"])
    assert read(_encrypted(plain, ""), "x.pdf") == [Block(PARAGRAPH, "Text", 1)]
    assert fail(_encrypted(plain, "secret"), "x.pdf").message.startswith("The PDF is encrypted.")


def _encrypted(data: bytes, password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, "owner", algorithm="AES-256")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def test_pdf_with_ligatures_has_their_letters(read: Extract) -> None:
    assert read(pdf(["a ﬁle"]), "x.pdf")[0].text == "a file"


def test_pdf_without_text_needs_ocr(fail: Fail) -> None:
    assert "OCR" in fail(pdf(["", ""]), "scan.pdf").message


def test_word(read: Extract) -> None:
    assert read(word(), "guide.docx") == [
        Block(HEADING, "Guide", level=1),
        Block(HEADING, "Install", level=1),
        Block(PARAGRAPH, "First."),
        Block(PARAGRAPH, "- item"),
        Block(TABLE, "| a | b |\n| --- | --- |\n| wide |  | x y\\|z |"),
        Block(PARAGRAPH, "Last."),
    ]


def test_word_has_the_pages_of_its_last_layout(read: Extract) -> None:
    brk = b"<w:r><w:lastRenderedPageBreak/></w:r>"
    data = replace_part(
        word(),
        "word/document.xml",
        (b"<w:r><w:t>First.</w:t></w:r>", b"<w:r><w:t>First, </w:t></w:r>" + brk + b"<w:r><w:t>then.</w:t></w:r>"),
        (b"<w:r><w:t>Last.</w:t></w:r>", brk + b"<w:r><w:t>Last.</w:t></w:r>"),
    )
    assert [(block.text[:5], block.page) for block in read(data, "x.docx")] == [
        ("Guide", 1),
        ("Insta", 1),
        ("First", 1),
        ("- ite", 2),
        ("| a |", 2),
        ("Last.", 3),
    ]


@pytest.mark.parametrize(
    ("paragraph", "texts"),
    [
        (
            b"<w:sdt><w:sdtContent><w:p><w:r><w:t>in a control</w:t></w:r></w:p></w:sdtContent></w:sdt>",
            ["in a control"],
        ),
        (b'<w:p><w:ins w:id="1"><w:r><w:t>inserted</w:t></w:r></w:ins></w:p>', ["inserted"]),
        (b'<w:p><w:del w:id="1"><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>', []),
        (b"<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>", ["a\tb\nc"]),
        (
            b'<w:p><w:r><mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
            b"<mc:Choice><w:t>box</w:t></mc:Choice><mc:Fallback><w:t>box</w:t></mc:Fallback></mc:AlternateContent></w:r></w:p>",
            ["box"],
        ),
        (b'<w:tbl><w:tr><w:tc><w:tcPr><w:gridSpan w:val="99999999"/></w:tcPr><w:p/></w:tc></w:tr></w:tbl>', []),
        (
            b"<w:tbl><w:tr><w:tc><w:p><w:r><w:t>out</w:t></w:r></w:p><w:tbl><w:tr><w:tc><w:p><w:r><w:t>in</w:t></w:r></w:p>"
            b"</w:tc></w:tr></w:tbl></w:tc></w:tr></w:tbl>",
            ["| out in |\n| --- |"],
        ),
    ],
    ids=["control", "inserted", "deleted", "tab", "fallback", "span", "nested"],
)
def test_word_content(read: Extract, paragraph: bytes, texts: list[str]) -> None:
    data = replace_part(word(), "word/document.xml", (b"<w:body>", b"<w:body>" + paragraph))
    assert [block.text for block in read(data, "x.docx")[: len(texts) + 1]] == [*texts, "Guide"]


def test_presentation_has_a_page_per_slide(read: Extract) -> None:
    assert read(presentation(), "slides.pptx") == [
        Block(HEADING, "One", 1, 1),
        Block(PARAGRAPH, "body", 1),
        Block(PARAGRAPH, "note", 1),
        Block(HEADING, "Two", 2, 1),
        Block(TABLE, "| h |\n| --- |\n|  | v |", 2),
        Block(PARAGRAPH, "in a group", 2),
    ]


def test_workbook_has_a_table_per_sheet(read: Extract) -> None:
    assert read(workbook(), "sizes.xlsx") == [
        Block(HEADING, "Sizes", level=1),
        Block(
            TABLE,
            "| name | count | when | is new |\n| --- | --- | --- | --- |\n"
            "| x | 1 | 2026-01-02 | TRUE |\n|  | 2.5 | 2026-01-02T03:04:00 | FALSE |",
        ),
    ]


def test_workbook_that_claims_a_million_rows_and_columns(read: Extract) -> None:
    data = replace_part(
        workbook(),
        "xl/worksheets/sheet1.xml",
        (b'<dimension ref="A1:D4"/>', b'<dimension ref="A1:XFD1048576"/>'),
        (b"</sheetData>", b'<row r="1048576"><c r="B1048576"><v>7</v></c></row></sheetData>'),
    )
    assert read(data, "sizes.xlsx")[1].text.endswith("|  | 7 |")


def test_epub_has_the_chapters_of_its_spine_in_order(read: Extract) -> None:
    data = epub({"b": "<h1>First</h1><p>Text&nbsp;one</p>", "a": "<h2>Second</h2><p>two</p>"})
    assert read(data, "x.epub") == [
        Block(HEADING, "A title", level=1),
        Block(HEADING, "First", level=1),
        Block(PARAGRAPH, "Text one"),
        Block(HEADING, "Second", level=2),
        Block(PARAGRAPH, "two"),
    ]


def test_epub_with_drm_is_refused(fail: Fail) -> None:
    encryption = b'<encryption><CipherReference URI="OEBPS/text/a.xhtml"/></encryption>'
    assert "encrypted" in fail(epub({"a": "<p>x"}, {"META-INF/encryption.xml": encryption}), "x.epub").message


def test_email_has_its_headers_text_and_the_names_of_its_attachments(read: Extract) -> None:
    message = EmailMessage()
    message["Subject"] = "Größe"
    message["From"] = "Ä <a@example.com>"
    message["To"] = "b@example.com"
    message.set_content("Hello,\n\nworld é")
    message.add_alternative("<p>Hello</p>", subtype="html")
    message.add_attachment(b"%PDF-1.7", maintype="application", subtype="pdf", filename="Plän.pdf")
    assert read(message.as_bytes(), "mail.eml") == [
        Block(HEADING, "Größe", level=1),
        Block(PARAGRAPH, "From: Ä <a@example.com>\nTo: b@example.com"),
        Block(PARAGRAPH, "Hello,"),
        Block(PARAGRAPH, "world é"),
        Block(PARAGRAPH, "Attachment: Plän.pdf"),
    ]


def test_email_of_html_alone(read: Extract) -> None:
    message = EmailMessage()
    message["Subject"] = "x"
    message.set_content("<h2>Title</h2><p>Größe</p>", subtype="html", charset="iso-8859-1")
    texts = [block.text for block in read(message.as_bytes(), "x", "message/rfc822")]
    assert texts == ["x", "Title", "Größe"]


def test_text_that_is_no_email(fail: Fail) -> None:
    assert "not an email" in fail(b"just text", "x.eml").message


@pytest.mark.parametrize("name", ["x.csv", "x.docx.exe"])
@pytest.mark.parametrize("kind", ["pdf", "docx", "pptx", "xlsx", "epub"])
def test_a_mislabeled_document_is_read_as_what_it_is(read: Extract, name: str, kind: str) -> None:
    data, first = {
        "pdf": (pdf(["Text"]), "Text"),
        "docx": (word(), "Guide"),
        "pptx": (presentation(), "One"),
        "xlsx": (workbook(), "Sizes"),
        "epub": (epub({"a": "x"}), "A title"),
    }[kind]
    assert read(data, name, "text/plain")[0].text == first


@pytest.mark.parametrize("name", ["x.doc", "x.txt", "x"])
def test_html_that_is_named_otherwise_is_read_as_html(read: Extract, name: str) -> None:
    data = b"<!-- a --><!-- b -->\n<html><body><h1>Title</h1>"
    assert read(data, name) == [Block(HEADING, "Title", level=1)]
