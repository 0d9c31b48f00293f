"""Callers that mean harm: a process of its own, as the load is. Run by its path: `attack.py KIND PORT HEADERS`.

`chunks`: one caller sends bodies in chunks of one byte, one after the other. `readers`: eight callers ask for long
streams and read nothing of them. `bodies`: forty callers keep back the last byte of nearly eight megabytes each, and
come again when they are refused. `brackets`: one caller sends eight megabytes of nested arrays, one body after the
other. Says `begun` once the harm is under way, and continues until it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import Any

CHAT = "/v1/chat/completions"
READERS = 8
UNTIL_STALLED_SECONDS = 4  # the kernel takes megabytes of each answer first
MESSAGES = [{"role": "user", "content": "Say in many words where the river bends."}]
BODY = {"model": "bench", "messages": MESSAGES, "max_tokens": 1_000_000, "stream": True}
LARGE = 7_900_000  # just below the greatest body that is taken
BODIES = 40
REFUSED_SECONDS = 0.2  # as a client's shortest pause before it tries again
ONE_BYTE_CHUNKS = b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n"


def head(headers: dict[str, str], framing: dict[str, str]) -> bytes:
    lines = {"host": "x", "content-type": "application/json", **headers, **framing}
    return (
        f"POST {CHAT} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    ).encode() + b"\r\n"


async def chunks(port: int, headers: dict[str, str]) -> None:
    request = head(headers, {"transfer-encoding": "chunked", "connection": "close"}) + ONE_BYTE_CHUNKS
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            begun()
            await reader.read()
        writer.close()


async def readers(port: int, headers: dict[str, str]) -> None:
    body = json.dumps(BODY).encode()
    request = head(headers, {"content-length": str(len(body))}) + body
    held = []
    for _ in range(READERS):
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", port))
        caller.sendall(request)
        held.append(caller)
    await asyncio.sleep(UNTIL_STALLED_SECONDS)
    begun()
    await asyncio.Event().wait()


async def bodies(port: int, headers: dict[str, str]) -> None:
    request = head(headers, {"content-length": str(LARGE), "connection": "close"}) + b"x" * (LARGE - 1)

    async def caller() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await reader.read()
            writer.close()
            await asyncio.sleep(REFUSED_SECONDS)

    callers = [asyncio.create_task(caller()) for _ in range(BODIES)]
    await asyncio.sleep(UNTIL_STALLED_SECONDS)
    begun()
    await asyncio.gather(*callers)


async def brackets(port: int, headers: dict[str, str]) -> None:
    body = b'{"model": "bench", "messages": [' + b",".join([b"[" * 90 + b"]" * 90] * (LARGE // 181)) + b"]}"
    request = head(headers, {"content-length": str(len(body)), "connection": "close"}) + body
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            begun()
            await reader.read()
        writer.close()


def begun(said: list[bool] = []) -> None:  # noqa: B006 - said once a process
    if not said:
        said.append(True)
        print("begun", flush=True)


KINDS: dict[str, Any] = {"chunks": chunks, "readers": readers, "bodies": bodies, "brackets": brackets}

if __name__ == "__main__":
    asyncio.run(KINDS[sys.argv[1]](int(sys.argv[2]), json.loads(sys.argv[3])))
