"""The benchmark: our chat function and its peers before one scripted engine, in interleaved paired rounds.

Every round measures every peer once, starting with another one each time, so that whatever else the machine does
falls on all of them alike. What can't be measured here is reported with its reason, never left out in silence.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .children import StartError, free_port, running
from .environments import UnavailableError
from .load_driver import LoadError
from .measures import first_token, limits_cost, request_cost, reuse, token_cost
from .peers import envoy, gateway, litellm, nginx
from .process_cost import memory
from .results import Results
from .target import Site, Started, Target

ENGINE = Path(__file__).parents[1] / "engines" / "scripted.py"
DIRECT = "direct"
# Not a proxy, but a part of the platform: its rounds are paired with those of the proxies.
LIMITS = "auth and limits"
# A ratio of a hundred needs no precision, and these rounds take as long as all others together.
SLOW = {"litellm"}
SLOW_ROUNDS = 2
PEERS: dict[str, Callable[[Site], Target]] = {
    "gateway": gateway.target,
    "nginx": nginx.target,
    "envoy": envoy.target,
    "envoy filters": envoy.filtered,
    "litellm": litellm.target,
}


@dataclass(frozen=True)
class Bounds:
    """How much is measured; no round starts after the deadline (monotonic seconds)."""

    rounds: int
    deadline: float

    def each(self) -> Iterator[int]:
        for number in range(self.rounds):
            if number and time.monotonic() > self.deadline:
                print(f"out of time after {number} of {self.rounds} rounds", file=sys.stderr)
                return
            yield number


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def engine() -> Target:
    """The scripted engine that all of them stand before."""
    port = free_port()
    return Target(DIRECT, [sys.executable, str(ENGINE), "--port", str(port)], port)


def configured(name: str, site: Site, results: Results) -> Target | None:
    """A peer ready to be started, or a note why it can't be."""
    say(f"preparing {name}")
    try:
        return replace(PEERS[name](site), name=name)
    except UnavailableError as reason:
        results.skipped[name] = str(reason)
        return None


def start(stack: ExitStack, target: Target, site: Site, results: Results) -> Started | None:
    """Start one peer for the lifetime of the stack; one that never responds is recorded with its output."""
    try:
        started = stack.enter_context(running(target, site.folder))
        first_token.answers(started)
    except (StartError, LoadError) as reason:
        results.skipped[target.name] = str(reason)
        return None
    return started


def measure_memory(results: Results, state: str, proxies: list[Started]) -> None:
    for proxy in proxies:
        used = memory(proxy.pid)
        results.add(f"{state}_rss_mib", proxy.name, used.rss)
        results.add(f"{state}_pss_mib", proxy.name, used.pss)


def measure_costs(results: Results, proxies: list[Started], bounds: Bounds) -> None:
    """Requests, then tokens, of every proxy in every round."""
    for number in bounds.each():
        say(f"round {number + 1} of {bounds.rounds}: cost of requests and tokens")
        results.add("request_cpu_us", LIMITS, limits_cost.measure())
        for proxy in taking_part(results, proxies, number):
            with noted(results, proxy):
                request, token = request_cost.measure(proxy), token_cost.measure(proxy)
                results.add("request_cpu_us", proxy.name, request)
                results.add("requests_per_core", proxy.name, 1e6 / request)
                results.add("token_cpu_us", proxy.name, token)


def measure_first_tokens(results: Results, direct: Started, proxies: list[Started], bounds: Bounds) -> None:
    """What each proxy adds to the engine's own time in the same round."""
    for number in bounds.each():
        say(f"round {number + 1} of {bounds.rounds}: time to first token")
        own = first_token.measure(direct)
        for proxy in taking_part(results, proxies, number):
            with noted(results, proxy):
                seen = first_token.measure(proxy)
                for quantile in ("p50", "p95"):
                    results.add(f"first_added_{quantile}_ms", proxy.name, seen[quantile] - own[quantile])


@contextmanager
def noted(results: Results, proxy: Started) -> Iterator[None]:
    """A proxy that fails under load is noted, and takes no further part: its rounds would no longer pair."""
    try:
        yield
    except LoadError as reason:
        results.skipped[proxy.name] = f"failed under load: {reason}"


def taking_part(results: Results, proxies: list[Started], number: int) -> list[Started]:
    """Who is measured in a round, in which order."""
    turn = number % max(1, len(proxies))
    order = proxies[turn:] + proxies[:turn]
    late = SLOW if number >= SLOW_ROUNDS else set()
    return [proxy for proxy in order if proxy.name not in late and proxy.name not in results.skipped]


def measure_proxies(results: Results, folder: Path, bounds: Bounds) -> None:
    """Everything that is measured of proxies that run."""
    with ExitStack() as stack:
        direct = stack.enter_context(running(engine(), folder))
        site = Site(folder, direct.port)
        targets = [configured(name, site, results) for name in PEERS]
        found = [start(stack, target, site, results) for target in targets if target is not None]
        proxies = [proxy for proxy in found if proxy is not None]
        measure_memory(results, "idle", proxies)
        measure_costs(results, proxies, bounds)
        measure_first_tokens(results, direct, proxies, bounds)
        measure_memory(results, "loaded", proxies)
        for proxy in taking_part(results, proxies, 0):
            with noted(results, proxy):
                results.add("connections_per_request", proxy.name, reuse.measure(direct, proxy))
