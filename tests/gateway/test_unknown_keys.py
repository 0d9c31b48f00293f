"""The key cache has one entry per key, however the header is written, and is bounded; failed lookups are rate limited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import AuthenticationFailed, RateLimited
from llmariner.gateway.authentication import key_cache as module
from llmariner.gateway.authentication.failed_attempts import FailedAttemptLimiter
from llmariner.gateway.authentication.key_cache import KeyCache
from llmariner.gateway.control_plane.port import ControlPlane, Key

from .caller import Answer, Caller
from .running_platform import Platform, running

SCOPE = "api.inference.write"


class CountingControl:
    """A control plane that accepts every key, and counts the lookups."""

    def __init__(self) -> None:
        self.count = 0

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
        self.count += 1
        return Key(f"key_{digest[:20]}", "p", "o", "u", frozenset({SCOPE}), None, True)


def make_key_cache(lookups: CountingControl) -> KeyCache:
    control: ControlPlane = lookups  # type: ignore[assignment]
    return KeyCache(control, "p" * 64, FailedAttemptLimiter(120))


def header_variants() -> list[bytes]:
    schemes = [b"Bearer", b"bearer", b"BEARER", b"bEARER"]
    return [scheme + b" " * spaces + b"sk-secret" for scheme in schemes for spaces in range(1, 250)]


def test_one_key_is_looked_up_and_cached_once_for_any_header_format() -> None:
    async def scenario() -> tuple[int, int]:
        lookups = CountingControl()
        cache = make_key_cache(lookups)
        for authorization in header_variants():
            head = {b"authorization": authorization}
            key = cache.cached(head, SCOPE) or await cache.authenticate(head, SCOPE)
            assert key.project_id == "p"
        assert cache.cached({b"authorization": b"Bearer sk-secret"}, SCOPE) is not None
        return lookups.count, len(cache._cached)

    assert asyncio.run(scenario()) == (1, 1)


class RevokingControl(CountingControl):
    """A control plane whose first answer arrives after the news that keys changed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.answering = asyncio.Event()

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
        key = await super().authenticate_key(digest, organization, project)
        self.asked.set()
        await self.answering.wait()
        return key


@pytest.mark.parametrize("everything", [False, True], ids=["keys", "all-keys"])
def test_a_key_that_is_revoked_during_its_lookup_is_not_cached(everything: bool) -> None:
    async def scenario() -> int:
        lookups = RevokingControl()
        cache = make_key_cache(lookups)
        head = {b"authorization": b"Bearer sk-secret"}
        lookup = asyncio.ensure_future(cache.authenticate(head, SCOPE))
        await lookups.asked.wait()
        if everything:
            cache.invalidate_all()
        else:
            # The id of any key: what is under way has no known id yet.
            cache.invalidate(("key_other",))
        lookups.answering.set()
        await lookup
        assert cache.cached(head, SCOPE) is None
        await cache.authenticate(head, SCOPE)
        assert cache.cached(head, SCOPE) is not None
        return lookups.count

    assert asyncio.run(scenario()) == 2


def test_a_cached_key_is_rejected_from_the_moment_of_its_expiry() -> None:
    class ExpiringKeyControl(CountingControl):
        async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
            return replace(await super().authenticate_key(digest, organization, project), expires_at=time.time() + 0.5)

    async def scenario() -> None:
        cache, head = make_key_cache(ExpiringKeyControl()), {b"authorization": b"Bearer sk-secret"}
        expires_at = (await cache.authenticate(head, SCOPE)).expires_at
        assert expires_at is not None
        await asyncio.sleep(max(0.0, expires_at - time.time()) + 0.01)
        assert cache.cached(head, SCOPE) is None
        with pytest.raises(AuthenticationFailed):
            await cache.authenticate(head, SCOPE)

    asyncio.run(scenario())


def test_keys_with_many_models_count_by_their_bytes() -> None:
    class ManyModelsKeyControl(CountingControl):
        async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key:
            names = frozenset(f"model-{number}" for number in range(1000))
            return replace(await super().authenticate_key(digest, organization, project), own_models=names)

    async def scenario() -> int:
        cache = make_key_cache(ManyModelsKeyControl())
        for number in range(200):
            await cache.authenticate({b"authorization": b"Bearer sk-%d" % number}, SCOPE)
        kept = len(cache._cached)
        cache.invalidate(("p",))
        assert cache._cached_bytes == 0
        return kept

    # Keys without lists of models would all fit.
    assert 50 < asyncio.run(scenario()) < 150


def test_the_cache_is_bounded_in_bytes_and_evicts_the_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CACHED_BYTES", 100_000)

    async def scenario() -> None:
        lookups = CountingControl()
        cache = make_key_cache(lookups)
        used = {b"authorization": b"Bearer used"}
        await cache.authenticate(used, SCOPE)
        for number in range(500):
            await cache.authenticate({b"authorization": b"Bearer %d" % number + b"x" * 1000}, SCOPE)
            assert cache.cached(used, SCOPE) is not None
            assert cache._cached_bytes <= 100_000
        assert cache.cached({b"authorization": b"Bearer 0" + b"x" * 1000}, SCOPE) is None
        cache.invalidate(("u",))
        assert (len(cache._cached), cache._cached_bytes) == (0, 0)

    asyncio.run(scenario())


def test_sources_are_ipv4_addresses_and_ipv6_sites() -> None:
    failed = FailedAttemptLimiter(3)
    for _ in range(4):
        failed.record_failure("192.0.2.1")
        failed.record_failure("2001:db8::1")
        failed.record_failure("10.0.0.1", untrusted_proxy=True)
    for blocked in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::ffff"):
        with pytest.raises(RateLimited) as refused:
            failed.check(blocked)
        assert refused.value.code == "too_many_failed_authentications"
        assert 1 <= int(refused.value.headers["retry-after"]) <= 60
    failed.check("192.0.2.2")
    failed.check("2001:db8:0:1::1")
    failed.check("10.0.0.1", untrusted_proxy=True)
    failed.check(None)


def test_the_table_of_sources_is_bounded() -> None:
    failed = FailedAttemptLimiter(1)
    for number in range(20_000):
        failed.record_failure(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failed._buckets) == 10_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("guarded"), database, UNKNOWN_KEYS_PER_MINUTE="5") as found:
        yield found


def test_guessed_keys_are_limited_and_valid_keys_continue(guarded: Platform) -> None:
    model = guarded.model("guarded", "--tokens", "1")
    fresh = guarded.key("fresh")[1]

    async def scenario() -> tuple[list[Answer], list[int]]:
        assert (await guarded.caller.chat(model)).status == 200
        guesses = [await Caller(guarded.port, f"sk-guess-{number}").chat(model) for number in range(8)]
        return guesses, [(await caller.chat(model)).status for caller in (guarded.caller, fresh)]

    guesses, (known, new) = asyncio.run(scenario())
    assert [answer.status for answer in guesses[:5]] == [401] * 5
    assert [answer.status for answer in guesses[6:]] == [429] * 2
    error = guesses[-1].error()
    assert (error["code"], error["type"]) == ("too_many_failed_authentications", "rate_limit_error")
    assert int(guesses[-1].headers["retry-after"]) >= 1
    # A valid key that is not cached yet is limited like the guesses of its address.
    assert (known, new) == (200, 429)
