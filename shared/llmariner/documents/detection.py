"""The type of a document: from its content first, then from its name.

A document whose content is of a known type is read as such, whatever its name says. Types of text differ by name alone.
"""

from __future__ import annotations

import re
import zipfile
from enum import StrEnum

from llmariner.documents.archives import open_archive
from llmariner.documents.errors import DocumentError
from llmariner.documents.source import Source

__all__ = ["Format", "detect"]


class Format(StrEnum):
    """A format that is read. The value is the module in `formats`."""

    PLAIN_TEXT = "plain_text"
    MARKDOWN = "markdown"
    HTML = "html"
    CSV = "csv_rows"
    JSON = "json_values"
    JSON_LINES = "json_lines"
    SOURCE_CODE = "source_code"
    EMAIL = "email_message"
    PDF = "pdf"
    WORD = "word"
    PRESENTATION = "presentation"
    SPREADSHEET = "spreadsheet"
    EPUB = "epub"


_TEXT_EXTENSIONS = {
    Format.MARKDOWN: ".md .markdown .mdx .mkd",
    Format.HTML: ".html .htm .xhtml",
    Format.CSV: ".csv .tsv .tab",
    Format.JSON: ".json .geojson .webmanifest",
    Format.JSON_LINES: ".jsonl .ndjson",
    Format.EMAIL: ".eml",
    # OpenAI's list of code, and the usual languages beyond it.
    Format.SOURCE_CODE: (
        ".c .h .cc .cpp .cxx .hpp .cs .css .scss .go .java .js .mjs .cjs .jsx .php .py .pyi .rb .sh .bash .tex .ts .tsx"
        " .rs .kt .kts .swift .scala .lua .pl .r .sql .proto .tf .toml .ini .cfg .yaml .yml .xml .vue .zig .hs .ex .exs"
        " .erl .clj .dart .jl .m .ps1 .bat .cmake .gradle .groovy .asm .s .vb .f90 .dockerfile .makefile"
    ),
    Format.PLAIN_TEXT: ".txt .text .log .rst .adoc .org .srt .vtt",
}
_BY_EXTENSION = {extension: form for form, names in _TEXT_EXTENSIONS.items() for extension in names.split()}
_BY_CONTENT_TYPE = {
    "text/markdown": Format.MARKDOWN,
    "text/html": Format.HTML,
    "application/xhtml+xml": Format.HTML,
    "text/csv": Format.CSV,
    "text/tab-separated-values": Format.CSV,
    "application/json": Format.JSON,
    "application/jsonl": Format.JSON_LINES,
    "application/x-ndjson": Format.JSON_LINES,
    "message/rfc822": Format.EMAIL,
}
_BINARY_EXTENSIONS = {".pdf", ".docx", ".docm", ".pptx", ".pptm", ".xlsx", ".xlsm", ".epub", ".doc", ".ppt", ".xls"}
_HTML = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--(?:(?!-->).)*-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL
)
_SIGNATURES = (
    (b"{\\rtf", "RTF"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x7fELF", "a program"),
    (b"%!PS", "PostScript"),
    (b"PAR1", "Parquet"),
)
_OLE = bytes.fromhex("d0cf11e0a1b11ae1")
# The name of the stream that holds an encrypted docx, pptx or xlsx ([MS-OFFCRYPTO] 2.3.4.4).
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")
_HEAD_BYTES = 64 * 1024
# Readers of PDF accept the signature within the first 1,024 bytes (ISO 32000-1, annex H).
_PDF_HEAD_BYTES = 1024
_READ_INSTEAD = "Upload it as PDF, docx, pptx, xlsx, epub, HTML, Markdown or text."


def detect(source: Source, content_type: str | None) -> Format:
    """The format of a document. Raises DocumentError for types that are not read."""
    source.stream.seek(0)
    head = source.stream.read(_HEAD_BYTES)
    if not head:
        raise DocumentError.invalid("The file is empty.")
    if b"%PDF-" in head[:_PDF_HEAD_BYTES]:
        return Format.PDF
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _archive_format(source)
    if head.startswith(_OLE):
        raise _ole_error(source, head)
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            raise DocumentError.unsupported(f"The file is {name}, which is not read. {_READ_INSTEAD}")
    return _text_format(source, head, content_type)


def _archive_format(source: Source) -> Format:
    with open_archive(source) as archive:
        names = set(archive.namelist())
        if "[Content_Types].xml" in names:
            for folder, form in (("word", Format.WORD), ("ppt", Format.PRESENTATION), ("xl", Format.SPREADSHEET)):
                if any(name.startswith(f"{folder}/") for name in names):
                    return form
        if "META-INF/container.xml" in names and _mimetype(archive, names) in ("application/epub+zip", ""):
            return Format.EPUB
    message = "The file is a ZIP archive that is not docx, pptx, xlsx or epub. Upload the files in it one by one."
    raise DocumentError.unsupported(message)


def _mimetype(archive: zipfile.ZipFile, names: set[str]) -> str:
    return archive.read("mimetype")[:100].decode("ascii", "replace").strip() if "mimetype" in names else ""


def _ole_error(source: Source, head: bytes) -> DocumentError:
    source.stream.seek(0)
    if _ENCRYPTED_PACKAGE in head or _ENCRYPTED_PACKAGE in source.stream.read():
        return DocumentError.invalid("The file is encrypted. Remove its password and upload it again.")
    message = f"The file is of an old Office format (doc, ppt, xls, msg), which is not read. {_READ_INSTEAD}"
    return DocumentError.unsupported(message)


def _text_format(source: Source, head: bytes, content_type: str | None) -> Format:
    has_mark = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))
    if b"\0" in head and not has_mark:
        raise DocumentError.unsupported(
            f"The file is neither text nor a document of a type that is read. {_READ_INSTEAD}"
        )
    extension = source.extension
    by_name = _BY_EXTENSION.get(extension)
    looks_like_html = _HTML.match(head[:8192].decode("latin-1")) is not None
    if looks_like_html and by_name in (None, Format.PLAIN_TEXT, Format.HTML):
        return Format.HTML
    if extension in _BINARY_EXTENSIONS:
        message = f"The file is named *{extension}, but it is not of that type. Upload the original, or name it .txt."
        raise DocumentError.invalid(message)
    return by_name or _BY_CONTENT_TYPE.get(content_type or "", Format.PLAIN_TEXT)
