"""Writes the streamed export of requests to a file, as CSV or Parquet, with one batch of rows in memory."""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from llmariner.cli.support.errors import CommandError, ExitCode

__all__ = ["write_csv", "write_parquet"]

_BATCH_ROWS = 20_000
_INTEGER_COLUMNS = frozenset(
    {
        "status",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "trained_tokens",
        "gpu_count",
        "millicores",
        "memory_mib",
    }
)
_NANODOLLARS_PER_DOLLAR = 10**9


def write_csv(chunks: Iterable[bytes], file: Path) -> int:
    """Write the CSV unchanged, `-` to stdout; returns the number of requests."""
    if str(file) == "-":
        return _copy(chunks, sys.stdout.buffer)
    with _atomic_file(file) as out:
        return _copy(chunks, out)


def write_parquet(chunks: Iterable[bytes], file: Path) -> int:
    """Write typed columns: utf8, int64, seconds as float64, `cost_nano_usd` as int64; returns the number of requests."""
    if str(file) == "-":
        raise CommandError(ExitCode.USAGE, "Parquet can't be written to a pipe.", next_step="name a file.")
    try:
        from arro3.core import Array, DataType, Field, RecordBatch, RecordBatchReader, Schema
        from arro3.io import write_parquet as write
    except ImportError as error:
        raise CommandError(
            ExitCode.USAGE,
            "this Python has no package that writes Parquet.",
            next_step="pip install 'llmariner-knative[parquet]', or name a file that ends in .csv.",
        ) from error
    rows = csv.reader(_lines(chunks))
    names = next(rows)
    types = {name: _type(name, DataType) for name in names}
    schema = Schema([Field(_column(name), types[name], nullable=True) for name in names])
    count, errors = 0, []

    def batches() -> Iterator[Any]:
        nonlocal count
        try:
            while batch := list(islice(rows, _BATCH_ROWS)):
                count += len(batch)
                columns = zip(names, zip(*batch, strict=True), strict=True)
                arrays = [Array(_values(name, texts), types[name]) for name, texts in columns]
                yield RecordBatch.from_arrays(arrays, schema=schema)
        except Exception as error:
            errors.append(error)  # the Parquet library passes only the error's text on
            raise

    with _atomic_file(file) as out:
        try:
            write(RecordBatchReader.from_batches(schema, batches()), out, compression="zstd(3)")
        except Exception as error:
            raise (errors or [error])[0] from None
    return count


@contextmanager
def _atomic_file(file: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file that replaces `file` on success, so that an incomplete export is never left behind."""
    partial = file.with_name(file.name + ".part")
    try:
        with partial.open("wb") as out:
            yield out
        partial.replace(file)
    except OSError as error:
        raise CommandError(
            ExitCode.USAGE, f"{file} can't be written: {error.strerror}.", next_step="name another file."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _copy(chunks: Iterable[bytes], out: BinaryIO) -> int:
    lines = 0
    for chunk in chunks:
        lines += chunk.count(b"\n")
        out.write(chunk)
    out.flush()
    return max(0, lines - 1)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder, rest = codecs.getincrementaldecoder("utf-8")(), ""
    for chunk in chunks:
        *complete, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from (line + "\n" for line in complete)
    if rest:
        yield rest


def _column(name: str) -> str:
    return "cost_nano_usd" if name == "cost_usd" else name


def _type(name: str, types: Any) -> Any:
    if name in _INTEGER_COLUMNS or name == "cost_usd":
        return types.int64()
    return types.float64() if name.endswith(("_seconds", "_at")) else types.utf8()


def _values(name: str, texts: Sequence[str]) -> list[Any]:
    """The typed values; empty text is null. Costs are integer nanodollars, because floats are not exact."""
    if name == "cost_usd":
        return [_nanodollars(text) for text in texts]
    if name in _INTEGER_COLUMNS:
        return [int(text) if text else None for text in texts]
    if name.endswith(("_seconds", "_at")):
        return [float(text) if text else None for text in texts]
    return [text or None for text in texts]


def _nanodollars(text: str) -> int:
    complete, _, partial = text.partition(".")
    return int(complete) * _NANODOLLARS_PER_DOLLAR + int(partial.ljust(9, "0"))
