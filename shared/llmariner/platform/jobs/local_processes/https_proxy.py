"""A proxy for a job that has a network of its own: it reaches port 443 of public addresses through it, and nothing else.

    python -m llmariner.platform.jobs.local_processes.https_proxy USER_ID

The socket that it listens on is made in the job's network and comes over standard input, a socket. What connects is hostile.
The process runs outside of the job's sandbox as the job's user, where we are root, and ends with the job's supervisor.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  (its user may not read the folder of modules, which are imported on use)
import contextlib
import ctypes
import encodings.idna  # noqa: F401
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable

__all__ = ["is_outside", "is_own", "is_public", "main", "serve"]

_PORT = 443
_MAX_CONNECTIONS = 64
_MAX_HEAD_BYTES = 8192
_HEAD_SECONDS, _CONNECT_SECONDS, _IDLE_SECONDS = 30.0, 20.0, 600.0
_READ_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1
_REFUSED = (
    "A job reaches https:// addresses outside of the machine alone, through this proxy. An operator allows all that the "
    "machine reaches with LLMARINER_JOB_NETWORK=machine.\n"
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet and not of this machine, its network or what translates into one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        is_translated = ip.ipv4_mapped or ip.sixtofour or ip.teredo or ip not in ipaddress.ip_network("2000::/3")
        return ip.is_global and not is_translated
    return ip.is_global and not ip.is_multicast


def is_outside(address: str) -> bool:
    """Whether an IP address is public and none of this machine's own, which other rules guard than those for jobs."""
    return is_public(address) and not is_own(address)


def is_own(address: str) -> bool:
    """Whether an IP address is one of this machine's: from those the kernel reaches it with itself. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as each:
        try:
            each.connect((address, _PORT))
        except OSError:  # no route leads there
            return False
        return ipaddress.ip_address(each.getsockname()[0]) == ipaddress.ip_address(address)


async def serve(
    listener: socket.socket, *, allowed: Callable[[str], bool] = is_outside, port: int = _PORT, platform: str = ""
) -> None:
    """Serve until it is canceled. `allowed` says of an IP address whether the job may reach it.

    `platform`: see `proxy_process.start_proxy`.
    """
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            if connections > _MAX_CONNECTIONS:
                await _refuse(writer, "503 Service Unavailable", f"{_MAX_CONNECTIONS} connections are open already.\n")
            else:
                await _handle(reader, writer, allowed, port, platform)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            connections -= 1
            writer.close()

    server = await asyncio.start_server(handle, sock=listener, limit=_MAX_HEAD_BYTES)
    async with server:
        await server.serve_forever()


async def _handle(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    allowed: Callable[[str], bool],
    port: int,
    platform: str,
) -> None:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_SECONDS)
    method, target, *_ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    if platform and target.startswith("/"):
        await _pass_to_platform(head, reader, writer, platform)
        return
    host, _, asked = target.rpartition(":")
    if method != "CONNECT" or asked != str(port):
        await _refuse(writer, "403 Forbidden", _REFUSED)
        return
    try:
        upstream_reader, upstream = await _connect(host.strip("[]"), port, allowed)
    except PermissionError:
        await _refuse(writer, "403 Forbidden", _REFUSED)
        return
    except (OSError, TimeoutError) as error:
        await _refuse(writer, "502 Bad Gateway", f"The address does not answer: {str(error) or 'no answer in time'}.\n")
        return
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await _relay_both(reader, writer, upstream_reader, upstream)


async def _pass_to_platform(
    head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, platform: str
) -> None:
    """Pass a connection on whose first request is for the platform, and so all that follow."""
    host, _, port = platform.rpartition(":")
    try:
        connecting = asyncio.open_connection(host.strip("[]"), int(port), limit=_READ_BYTES)
        upstream_reader, upstream = await asyncio.wait_for(connecting, _CONNECT_SECONDS)
    except (OSError, TimeoutError) as error:
        await _refuse(
            writer, "502 Bad Gateway", f"The platform does not answer: {str(error) or 'no answer in time'}.\n"
        )
        return
    upstream.write(head)
    await _relay_both(reader, writer, upstream_reader, upstream)


async def _relay_both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream: asyncio.StreamWriter,
) -> None:
    """Copy bytes in both directions until both ended."""
    try:
        await asyncio.gather(_relay(reader, upstream), _relay(upstream_reader, writer))
    finally:
        upstream.close()


async def _connect(
    host: str, port: int, allowed: Callable[[str], bool]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to an allowed address of a host. PermissionError where it has none.

    The address that was checked is the one that is connected to: a name may have another one a moment later.
    """
    resolving = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = await asyncio.wait_for(resolving, _CONNECT_SECONDS)
    addresses = [str(each[4][0]) for each in found if allowed(str(each[4][0]).partition("%")[0])]
    if not addresses:
        raise PermissionError(host)
    failure: OSError = OSError("no address")
    for address in addresses[:4]:
        try:
            return await asyncio.wait_for(asyncio.open_connection(address, port, limit=_READ_BYTES), _CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise failure


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await asyncio.wait_for(reader.read(_READ_BYTES), _IDLE_SECONDS):
        writer.write(data)
        await asyncio.wait_for(writer.drain(), _IDLE_SECONDS)
    with contextlib.suppress(OSError):
        writer.write_eof()


async def _refuse(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await asyncio.wait_for(writer.drain(), _HEAD_SECONDS)


def _is_nothing(_address: str) -> bool:
    return False


def main() -> None:
    """Serve the job whose socket comes over standard input."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.nice(10)
    user_id, platform, *reach = int(sys.argv[1]), *sys.argv[2:]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user_id, user_id, user_id)
        os.setresuid(user_id, user_id, user_id)
        # A change of the user resets it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with socket.socket(fileno=0) as control:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    if descriptors:
        with contextlib.suppress(KeyboardInterrupt):
            allowed = is_outside if reach else _is_nothing
            asyncio.run(serve(socket.socket(fileno=descriptors[0]), allowed=allowed, platform=platform))


if __name__ == "__main__":
    main()
