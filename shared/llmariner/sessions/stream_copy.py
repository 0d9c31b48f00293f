"""Copies of bytes between two streams, and between a stream and a socket: both directions, half-close, resets."""

from __future__ import annotations

import asyncio

from llmariner.platform.tunnel import Stream, StreamReset, TunnelError
from llmariner.platform.tunnel.both_directions import run_both

__all__ = ["copy_between", "copy_with_socket"]

_READ_BYTES = 64 * 1024


async def copy_between(incoming: Stream, outgoing: Stream) -> None:
    """Pass a request that arrived on `incoming` on as `outgoing`, and its response back. The end of one ends the other."""
    try:
        await run_both(_copy_response(outgoing, incoming), _copy_request(incoming, outgoing))
    except TunnelError as error:
        code = error.code if isinstance(error, StreamReset) else None
        for each in (incoming, outgoing):
            each.reset(*(() if code is None else (code,)))
    finally:
        outgoing.reset()


async def copy_with_socket(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes in both directions until both have ended, or either broke off."""
    try:
        await run_both(_copy_to_socket(stream, writer), _copy_from_socket(reader, stream))
        writer.close()
    except (TunnelError, OSError):
        writer.transport.abort()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        stream.reset()


async def _copy_request(incoming: Stream, outgoing: Stream) -> None:
    try:
        while data := await incoming.read():
            await outgoing.write(data)
        outgoing.end()
    except StreamReset:
        if outgoing.error is not None or not outgoing.local_ended:
            raise
        # The other side wants no more of the request: its response decides.


async def _copy_response(outgoing: Stream, incoming: Stream) -> None:
    incoming.respond(*await outgoing.response())
    while data := await outgoing.read():
        await incoming.write(data)
    incoming.end()


async def _copy_from_socket(reader: asyncio.StreamReader, stream: Stream) -> None:
    while data := await reader.read(_READ_BYTES):
        await stream.write(data)
    stream.end()


async def _copy_to_socket(stream: Stream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
