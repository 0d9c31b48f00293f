"""A scripted engine: a process that answers like `vllm serve` without a model.

Tests and benchmarks need an engine whose every answer, delay, queue and crash they can dictate, which costs
next to no CPU (the cores belong to what is being measured) and whose bytes are those of the real one.

    python tests/engines/scripted.py --port 8001 --model tiny --token-interval 5 --max-running 8

A request may override the command line with the body field `x_script` (`generation.Script` lists what it may
say). Never imported by the platform.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import uvloop

# Run by its path, so that nobody needs a PYTHONPATH to start it: the package's parent has to be found here.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engines.connection import Connection
from engines.engine import Engine, Options


def parse_options(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(description="an OpenAI-compatible engine that follows a script")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--uds", metavar="PATH", help="a socket to listen on in place of host and port")
    parser.add_argument("--model", action="append", default=[], help="a served name; none given: every name")
    parser.add_argument("--ready-after", type=float, default=0, metavar="S")
    parser.add_argument("--token-interval", type=float, default=0, metavar="MS")
    parser.add_argument("--tokens", type=int, default=16, help="length of an answer that sets no maximum")
    parser.add_argument("--max-running", type=int, default=256)
    parser.add_argument("--fail-load", action="store_true", help="exit 1 instead of becoming ready")
    parser.add_argument("--crash-after-tokens", type=int, default=0, metavar="N", help="counted over all requests")
    template = "that the chat template adds to a chat, and again for each function"
    parser.add_argument("--template-tokens", type=int, default=0, metavar="N", help=template)
    parser.add_argument("--first-answer", default="", metavar="WORD", help="what it tells of the question at its start")
    found = vars(parser.parse_args(arguments))
    found |= {"models": tuple(found.pop("model")), "token_interval": found["token_interval"] / 1000}
    return Options(**found)


async def serve(options: Options) -> None:
    """Listens at once, so that /health returns 503 during the load."""
    engine = Engine(options)
    loop = asyncio.get_running_loop()
    if options.uds:
        server = await loop.create_unix_server(lambda: Connection(engine), options.uds)
    else:
        server = await loop.create_server(lambda: Connection(engine), options.host, options.port)
    await asyncio.sleep(options.ready_after)
    if options.fail_load:
        sys.exit("RuntimeError: the weights could not be loaded (scripted)")
    engine.ready = True
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(parse_options(sys.argv[1:])))
