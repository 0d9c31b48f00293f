"""Identifiers: format, order by time, and uniqueness."""

from __future__ import annotations

import re
import time

from llmariner.identifiers import first_id, id_timestamp, new_id


def test_an_identifier_has_a_prefix_and_twenty_two_characters() -> None:
    assert re.fullmatch(r"key_[0-9a-z]{22}", new_id("key"))


def test_later_identifiers_sort_after_earlier_ones() -> None:
    made = []
    for _ in range(20):
        made.append(new_id("x"))
        time.sleep(0.0001)
    assert made == sorted(made)


def test_identifiers_of_one_time_differ() -> None:
    assert len({new_id("x") for _ in range(20_000)}) == 20_000


def test_the_time_in_it_is_in_microseconds() -> None:
    before = time.time_ns() // 1000
    stamp = int(new_id("x")[2:12], 36)
    assert before <= stamp <= time.time_ns() // 1000


def test_the_first_identifier_of_a_time_precedes_those_of_that_time() -> None:
    before, at = new_id("x"), time.time()
    assert before < first_id("x", at + 1)
    assert first_id("x", at) <= new_id("x")
    assert abs((id_timestamp(first_id("x", at)) or 0) - at) < 1e-5
