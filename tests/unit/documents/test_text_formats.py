"""Formats that are text: their blocks, encodings, and what is refused."""

from __future__ import annotations

import json

import pytest

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentErrorCode

from .conftest import Extract, Fail


def kinds(blocks: list[Block]) -> list[tuple[str, str]]:
    return [(block.kind.value, block.text) for block in blocks]


MARKDOWN = """\
# Guide #

Two
===

First *line*
second line

```python
# not a heading

x = 1
```

| a | b |
|---|---|
| 1 | 2 |
###### Deep
text
---
last
"""

HTML = """\
<!DOCTYPE html><html><head><title>T</title><style>p {}</style></head><body>
<h1>Guide <em>one</em></h1><script>alert(1)</script>
<p>First&nbsp;line &amp;
  second<br>third<p>unclosed
<ul><li>one<li>two <b>bold</b><ul><li>deep</ul><li><p>three</p></ul>
<pre>  x = 1
  y = 2</pre>
<table><caption>Sizes</caption><tr><th>a</th><th>b|c</th></tr><tr><td>1<td><p>2</p><table><tr><td>3</table></table>
<h3>End</h3>after
</body></html>
"""


def test_markdown(read: Extract) -> None:
    blocks = read(MARKDOWN.encode(), "guide.md")
    assert kinds(blocks) == [
        ("heading", "Guide"),
        ("heading", "Two"),
        ("paragraph", "First *line*\nsecond line"),
        ("code", "# not a heading\n\nx = 1"),
        ("table", "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("heading", "Deep"),
        ("heading", "text"),
        ("paragraph", "last"),
    ]
    assert [block.level for block in blocks if block.kind is BlockKind.HEADING] == [1, 1, 6, 2]


def test_html(read: Extract) -> None:
    blocks = read(HTML.encode(), "page.html")
    assert kinds(blocks) == [
        ("heading", "Guide one"),
        ("paragraph", "First line & second\nthird"),
        ("paragraph", "unclosed"),
        ("paragraph", "- one\n- two bold\n  - deep\n- three"),
        ("code", "  x = 1\n  y = 2"),
        ("paragraph", "Sizes"),
        ("table", "| a | b\\|c |\n| --- | --- |\n| 1 | 2 3 |"),
        ("heading", "End"),
        ("paragraph", "after"),
    ]
    assert [block.level for block in blocks if block.kind is BlockKind.HEADING] == [1, 3]


def test_plain_text(read: Extract) -> None:
    assert kinds(read(b"one\r\ntwo\r\n\r\n \r\nthree\x0cfour\x07", "notes.txt")) == [
        ("paragraph", "one\ntwo"),
        ("paragraph", "three\nfour"),
    ]


def test_source_code_is_divided_between_definitions(read: Extract) -> None:
    code = b"import os\n\n\ndef f():\n    a = 1\n\n    return a\n\n\nclass A:\n    pass\n"
    assert kinds(read(code, "module.py")) == [
        ("code", "import os"),
        ("code", "def f():\n    a = 1\n\n    return a"),
        ("code", "class A:\n    pass"),
    ]


@pytest.mark.parametrize("name", ["Dockerfile", "Makefile", "main.rs", "a.b.YAML", "C:\\x\\main.go"])
def test_source_code_by_name(read: Extract, name: str) -> None:
    assert read(b"FROM scratch", name) == [Block(BlockKind.CODE, "FROM scratch")]


@pytest.mark.parametrize(
    "data", [b'a,b\n1,"x, y"\n,\n2,"p|q\nr"\n', b'a;b\n1;x, y\n2;"p|q\nr"\n', b"a\tb\n1\tx, y\n2\tp|q r\n"]
)
def test_csv(read: Extract, data: bytes) -> None:
    table = "| a | b |\n| --- | --- |\n| 1 | x, y |\n| 2 | p\\|q r |"
    assert read(data, "rows.csv") == [Block(BlockKind.TABLE, table)]


def test_json_has_a_block_per_element(read: Extract) -> None:
    assert kinds(read(b'[{"a": "\\u00e9"}, 2]', "x.json")) == [("code", '{\n "a": "é"\n}'), ("code", "2")]
    assert kinds(read(b'{"a": [1]}', "x", "application/json")) == [("code", '{\n "a": [\n  1\n ]\n}')]


def test_json_lines(read: Extract, fail: Fail) -> None:
    assert kinds(read(b'{"a":1}\n\n[2]\n', "x.jsonl")) == [("code", '{"a": 1}'), ("code", "[2]")]
    error = fail(b'{"a":1}\n{"a":\n', "x.jsonl")
    assert error.code == DocumentErrorCode.INVALID_FILE
    assert error.message.startswith("Line 2 is not JSON: ")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a"', "is not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"1" * 10_000, "a number of too many digits"),
    ],
)
def test_json_that_is_none(fail: Fail, data: bytes, reason: str) -> None:
    error = fail(data, "x.json")
    assert error.code == DocumentErrorCode.INVALID_FILE
    assert reason in error.message


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ("é漢".encode(), None),
        ("é漢".encode("utf-8-sig"), None),
        ("é漢".encode("utf-16"), None),
        ("\ufeffé漢".encode("utf-16-be"), None),
        ("é漢".encode("utf-32"), None),
        ("é漢".encode("gb18030"), "text/plain; charset=gb18030"),
        ("é漢".encode(), "text/plain; charset=iso-8859-1"),
        ("é漢".encode() + "漢".encode()[:2], None),
    ],
)
def test_encodings(read: Extract, data: bytes, content_type: str | None) -> None:
    assert read(data, "x.txt", content_type)[0].text == "é漢"


def test_western_text_of_the_time_before_utf8(read: Extract) -> None:
    text = "Die Größe ist “genau” drei Fuß."
    assert read(text.encode("cp1252"), "x.txt")[0].text == text


@pytest.mark.parametrize(
    ("data", "content_type", "reason"),
    [
        ("Привет, мир".encode("koi8-r"), None, "not UTF-8 text: the byte at position 0"),
        ("日本語のテキスト".encode("shift-jis"), None, "not UTF-8 text"),
        ("Größe é è ü".encode() + b"\xff and more", None, "not UTF-8 text: the byte at position 16"),
        (b"un caf\xe9", "text/plain; charset=base64", None),
        (b"caf\xe9 \x01\x02", None, "not UTF-8 text"),
        (b"\xff\xfea", None, "utf-16-le"),
        ("\ufeffa\0b".encode("utf-16-le"), None, "NUL"),
        (b"\xe9\xe9", "text/plain; charset=ascii", "encoding ascii"),
    ],
)
def test_text_of_an_encoding_that_is_not_known(
    read: Extract, fail: Fail, data: bytes, content_type: str | None, reason: str | None
) -> None:
    if reason is None:
        assert read(data, "x.txt", content_type)[0].text == "un café"
        return
    error = fail(data, "x.txt", content_type)
    assert error.code == DocumentErrorCode.INVALID_FILE
    assert reason in error.message


def test_text_is_normalized(read: Extract) -> None:
    assert read("Gr\u00ado\u0308ße \ufeffx".encode(), "x.txt")[0].text == "Größe x"


def test_html_in_the_encoding_that_it_declares(read: Extract) -> None:
    data = '<html><head><meta charset="windows-1251"></head><body><p>Привет'.encode("cp1251")
    assert read(data, "x.html")[0].text == "Привет"


@pytest.mark.parametrize("data", [b"", b" \n\t\n", b"\xef\xbb\xbf", b"\x07\x08"])
def test_a_file_without_text_is_invalid(fail: Fail, data: bytes) -> None:
    error = fail(data, "x.txt")
    assert error.code == DocumentErrorCode.INVALID_FILE
    assert "empty" in error.message or "no text" in error.message


def test_no_character_that_a_database_refuses_survives(read: Extract) -> None:
    data = json.dumps(["a\0b\ud800c\u2028d"]).encode()
    assert read(data, "x.json")[0].text == '"a\\u0000bc\u2028d"'
