"""`python -m tests.bench.connections`: small requests and streams of 1 to 512 callers at once, beside Envoy.

For each number of callers, in interleaved rounds: requests per second of CPU time, the times to the first token that a
proxy adds to the engine's, how far the slowest callers are behind the others (p99 of a request relative to p50), and the
memory that its processes have afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from .children import running
from .environments import UnavailableError
from .load_driver import Load, Phase, drive
from .measures import request_cost, token_cost
from .process_cost import memory
from .results import Results
from .run import PEERS, engine, noted
from .target import Site, Started

CALLERS = (1, 8, 64, 512)
NAMES = ("gateway", "envoy", "envoy filters")
REQUESTS = request_cost.LOAD
# Few tokens with long pauses: the first ones are measured, and what is left of the processor is not the bound.
STREAMS = replace(token_cost.LOAD, tokens=8, token_interval_ms=20)


def measure(results: Results, number: int, proxies: list[Started], direct: Started) -> None:
    """One round with so many callers."""
    own = _drive(STREAMS, number, direct)
    for proxy in proxies:
        if proxy.name in results.skipped:
            continue
        with noted(results, proxy):
            requests, streams = _drive(REQUESTS, number, proxy), _drive(STREAMS, number, proxy)
            results.add(f"{number} requests_per_cpu_second", proxy.name, requests.completed / requests.cpu)
            results.add(f"{number} p99_vs_p50", proxy.name, requests.latency_ms["p99"] / requests.latency_ms["p50"])
            for quantile in ("p50", "p99"):
                added = streams.first_ms[quantile] - own.first_ms[quantile]
                results.add(f"{number} first_added_{quantile}_ms", proxy.name, added)
            results.add(f"{number} rss_mib", proxy.name, memory(proxy.pid).rss)


def _drive(load: Load, number: int, started: Started) -> Phase:
    return drive(replace(load, connections=number, warm=max(load.warm, number)), started)


def rows(results: Results) -> list[str]:
    """The medians as a table, one row for each number of callers and proxy."""
    found = [
        "| callers | | requests per CPU second | p99 / p50 | first token p50, ms | p99, ms | RSS, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for number in CALLERS:
        for name in NAMES:
            measures = ("requests_per_cpu_second", "p99_vs_p50", "first_added_p50_ms", "first_added_p99_ms", "rss_mib")
            medians = [results.median(f"{number} {measure}", name) for measure in measures]
            if all(median is not None for median in medians):
                rate, *others = (median or 0.0 for median in medians)
                found.append(
                    f"| {number} | {name} | {rate:,.0f} | " + " | ".join(f"{each:.2f}" for each in others) + " |"
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.connections", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    results = Results()
    with tempfile.TemporaryDirectory(prefix="llmariner-connections-") as name, ExitStack() as stack:
        folder = Path(name)
        direct = stack.enter_context(running(engine(), folder))
        proxies = []
        for peer in NAMES:
            try:
                target = replace(PEERS[peer](Site(folder, direct.port)), name=peer)
            except UnavailableError as reason:
                results.skipped[peer] = str(reason)
                continue
            proxies.append(stack.enter_context(running(target, folder)))
        for _ in range(rounds):
            for number in CALLERS:
                measure(results, number, proxies, direct)
    print("\n".join(rows(results)))
    for subject, why in results.skipped.items():
        print(f"SKIPPED {subject}: {why}")


if __name__ == "__main__":
    main()
