"""`python -m llmariner.documents.child`: parses the document on standard input, within limits that it sets on itself.

The argument is a JSON object of `extension`, `content_type`, `charset` and `limits`. The output is JSON lines: blocks
as `[kind, text, page, level]`, at last `{"end": true}` or `{"code", "message", "detail"}`. An output without such a
last line is that of a process that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from llmariner.documents.blocks import Block
from llmariner.documents.detection import Format, detect
from llmariner.documents.errors import DocumentError
from llmariner.documents.limits import ParserLimits
from llmariner.documents.source import Source, normalize

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
# Between the signal that a process may handle and the kill.
_CPU_GRACE_SECONDS = 2
# Memory for telling that there is no more.
_RESERVED_BYTES = 16 * 2**20
_DETAIL_CHARACTERS = 1000
_NAMES = {
    Format.PDF: "PDF",
    Format.WORD: "Word document (docx)",
    Format.PRESENTATION: "presentation (pptx)",
    Format.SPREADSHEET: "workbook (xlsx)",
    Format.EPUB: "EPUB",
    Format.EMAIL: "email",
    Format.HTML: "HTML document",
}


def main(argument: str) -> None:
    """Parse, and write the outcome."""
    options = json.loads(argument)
    limits = ParserLimits(**options["limits"])
    _limit_process(limits)
    output = _take_standard_output()
    source = Source(sys.stdin.buffer, options["extension"], options["charset"], limits)
    last: dict[str, object] = {"end": True}
    try:
        for line in _lines(source, options["content_type"]):
            output.write(line)
    except DocumentError as error:
        last = _last_line(error)
    except MemoryError:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        limit = limits.memory_bytes // 2**20
        last = _last_line(DocumentError.invalid(f"Reading the file takes more than {limit} MiB of memory. Split it."))
    output.write(json.dumps(last).encode() + b"\n")
    output.flush()
    # Without the release of what the libraries hold, which may take seconds.
    os._exit(0)


def _last_line(error: DocumentError) -> dict[str, object]:
    return {"code": error.code, "message": error.message, "detail": error.detail[:_DETAIL_CHARACTERS]}


def _limit_process(limits: ParserLimits) -> None:
    """Of the process and of nothing else: processor time, memory, no files written, no core dump, death with its parent."""
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + _CPU_GRACE_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes + _RESERVED_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # Where memory is short, this process is the one to end.
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_standard_output() -> BinaryIO:
    """The standard output for the protocol alone: what libraries print is dropped."""
    output = os.fdopen(os.dup(1), "wb", buffering=64 * 1024)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    return output


def _lines(source: Source, content_type: str | None) -> Iterator[bytes]:
    written = 0
    has_text = False
    for block in _blocks(source, content_type):
        text = normalize(block.text)
        if not text.strip():
            continue
        has_text = True
        line = json.dumps([block.kind, text.strip("\n"), block.page, block.level], ensure_ascii=False).encode() + b"\n"
        written += len(line)
        if written > source.limits.output_bytes:
            limit = source.limits.output_bytes // 2**20
            raise DocumentError.invalid(f"The text of the file is larger than {limit} MiB. Split the file.")
        yield line
    if not has_text:
        raise DocumentError.invalid(
            "The file has no text. If its pages are images, it needs OCR before it is uploaded."
        )


def _blocks(source: Source, content_type: str | None) -> Iterator[Block]:
    """The blocks of a document. Raises DocumentError."""
    with _errors_of("file", source):
        form = detect(source, content_type)
    # A library that is missing is no fault of the file: the process ends without a last line.
    read: Callable[[Source], Iterator[Block]] = importlib.import_module(f"llmariner.documents.formats.{form}").read
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with _errors_of(_NAMES.get(form, "file"), source):
        yield from read(source)


@contextlib.contextmanager
def _errors_of(subject: str, source: Source) -> Iterator[None]:
    """Whatever a library raises becomes an error of the file: its content is the cause."""
    try:
        yield
    except (DocumentError, MemoryError):
        raise
    except RecursionError:
        raise DocumentError.invalid(f"The {subject} has parts that are nested too deep.") from None
    except Exception as error:
        message = f"The {subject} is damaged or incomplete. Open it, save it again, and upload that."
        raise DocumentError.invalid(message, detail=repr(error)) from error


if __name__ == "__main__":
    main(sys.argv[1])
