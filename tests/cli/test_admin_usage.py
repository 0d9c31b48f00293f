"""`llma admin usage`: the length of bars, the cost breakdown of a request, and complete exports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from arro3.core import DataType
from arro3.io import read_parquet

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

USAGE, EXPORT = "GET /api_usages", "GET /organization/usage/requests"
WHY = "GET /organization/usage/requests/req_1"
NAMES = "request_id,model,adapter,status,admitted_at,first_token_seconds,prompt_tokens,cost_usd"
DAY = 86_400


def today() -> int:
    return int(time.time()) // DAY * DAY


def use(day: int, tokens: int, model: str = "m") -> dict[str, Any]:
    """As both questions are answered: by day, and by model."""
    return {
        "day": day,
        "model": model,
        "requests": 1,
        "prompt_tokens": tokens,
        "completion_tokens": 0,
        "cost_usd": tokens / 1e6,
    }


def test_bars_have_proportional_lengths_and_no_day_is_missing(llma: Llma, platform: FakePlatform) -> None:
    days = [use(today(), 800), use(today() - 2 * DAY, 400), use(today() - 3 * DAY, 1)]
    platform.respond(USAGE, {"data": days})
    lines = llma("admin", "usage", "show", "--days", "5").out.splitlines()
    bars = [line.rstrip()[len(lines[0].rstrip()) :].strip() for line in lines[1:6]]
    assert [bar.count("█") for bar in bars] == [0, 0, 20, 0, 40]
    assert bars[1] == "▏", "little, but not nothing"
    assert [line[:10] for line in lines[1:6]] == [
        time.strftime("%Y-%m-%d", time.gmtime(today() - back * DAY)) for back in range(4, -1, -1)
    ]
    assert [request.query["group_by"] for request in platform.requests] == ["model", "day"]
    assert {int(request.query["start_time"]) for request in platform.requests} == {today() - 4 * DAY}


def test_without_a_subcommand_thirty_days_are_shown_by_model(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(USAGE, {"data": [use(today(), 5, "cheap"), use(today(), 9_000_000, "dear")]})
    result = llma("admin", "usage")
    assert result.code == 0
    table = result.out.splitlines()[32:]
    assert [line.split()[0] for line in table] == ["MODEL", "dear", "cheap"], "what costs most comes first"


def test_without_usage_there_is_no_chart(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(USAGE, {"data": []})
    result = llma("admin", "usage", "show")
    assert (result.out, result.err) == ("", "Nothing was used in that time.\n")


def cost(name: str | None, dollars: float, quantity: float | None = None) -> dict[str, Any]:
    amount = {"value": dollars, "currency": "usd"}
    return {"amount": amount, "line_item": name, "quantity": quantity, "user_id": name, "api_key_id": name}


def cost_buckets(*results: list[dict[str, Any]]) -> dict[str, Any]:
    starts = range(today() - (len(results) - 1) * DAY, today() + 1, DAY)
    data = [{"start_time": start, "results": of_day} for start, of_day in zip(starts, results, strict=True)]
    return {"data": data, "has_more": False}


def test_costs_are_shown_by_day_and_by_line_item(llma: Llma, platform: FakePlatform) -> None:
    item = "m, output_tokens"
    days: tuple[list[dict[str, Any]], ...] = (
        [cost(item, 1, 1_000_000), cost("a100, gpu_seconds", 0.5, 1.25)],
        [],
        [cost(item, 3, 2_000_000)],
    )
    platform.respond("GET /organization/costs", cost_buckets(*days))
    result = llma("admin", "usage", "costs", "--days", "3")
    lines = result.out.splitlines()
    assert [line.split()[1:2] for line in lines[1:4]] == [["1.50"], ["0.00"], ["3.00"]]
    assert [line.count("█") for line in lines[1:4]] == [20, 0, 40]
    assert [line.split("  ")[0] for line in lines[5:]] == ["LINE ITEM", item, "a100, gpu_seconds"]
    assert [line.split()[-2:] for line in lines[6:]] == [["3,000,000", "4.00"], ["1.250", "0.50"]]
    [request] = platform.requests
    assert (int(request.query["start_time"]), request.query["limit"]) == (today() - 2 * DAY, "3")


def test_costs_of_no_key_are_shown_and_days_without_any_are_not_an_error(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /organization/costs", cost_buckets([cost(None, 2), cost("key_1", 1)]))
    lines = llma("admin", "usage", "costs", "--days", "1", "--by", "key").out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["KEY", "(none)", "key_1"]
    platform.respond("GET /organization/costs", cost_buckets([cost("user_1", 0)]))
    assert llma("admin", "usage", "costs", "--by", "user").err == "Nothing cost anything in that time.\n"


def test_a_cost_breakdown_that_does_not_add_up_is_reported(llma: Llma, platform: FakePlatform) -> None:
    found = {"id": "req_1", "admitted_at": 1.0, "amount": {"value": 0}, "line_items": [], "events": []}
    platform.respond(WHY, {**found, "rebuilt_equals_stored": False})
    result = llma("admin", "usage", "why", "req_1")
    assert "DO NOT ADD UP" in result.out
    assert "No price was valid" in result.err


@pytest.fixture
def exported(platform: FakePlatform) -> bytes:
    """A large export, sent in chunks that end anywhere."""
    lines = [NAMES, 'r0,"a ""b"", ü",lora,200,1.5,,7,0.000000001', "r1,m,,499,2.5,0.25,8,12.500000000"]
    text = (
        "\n".join([*lines, *(f"r{number},m,,200,3.0,,1,0.000000000" for number in range(2, 45_000))]) + "\n"
    ).encode()
    at = text.index("ü".encode()) + 1
    platform.respond_with(EXPORT, chunks=[text[:at], text[at : at + 9], text[at + 9 :]])
    return text


def test_an_export_is_written_as_it_arrives(
    llma: Llma, exported: bytes, tmp_path: Path, platform: FakePlatform
) -> None:
    result = llma("admin", "usage", "export", str(tmp_path / "x.csv"), "--days", "3")
    assert result.out == f"Wrote 45,000 requests to {tmp_path / 'x.csv'}.\n"
    assert (tmp_path / "x.csv").read_bytes() == exported
    assert abs(int(platform.requests[0].query["start_time"]) - time.time() + 3 * DAY) < 60


def test_parquet_has_types_and_exact_money(llma: Llma, exported: bytes, tmp_path: Path) -> None:
    result = llma("admin", "usage", "export", str(tmp_path / "x.parquet"), "-o", "json")
    assert (result.code, result.json["requests"]) == (0, 45_000)
    table = read_parquet(tmp_path / "x.parquet").read_all()
    first = {name: table[name].to_pylist()[:2] for name in table.column_names}
    assert first == {
        "request_id": ["r0", "r1"],
        "model": ['a "b", ü', "m"],
        "adapter": ["lora", None],
        "status": [200, 499],
        "admitted_at": [1.5, 2.5],
        "first_token_seconds": [None, 0.25],
        "prompt_tokens": [7, 8],
        "cost_nano_usd": [1, 12_500_000_000],
    }
    assert table.schema.field("cost_nano_usd").type == DataType.int64()
    assert table.num_rows == 45_000


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_an_incomplete_export_leaves_no_file(name: str, llma: Llma, platform: FakePlatform, tmp_path: Path) -> None:
    platform.respond_with(
        EXPORT, raw=f"{NAMES}\nr0,m".encode(), headers={"content-length": "5000", "connection": "close"}
    )
    result = llma("admin", "usage", "export", str(tmp_path / name))
    assert result.code != 0
    assert list(tmp_path.glob("x*")) == []


def test_a_rejected_export_has_a_reason(llma: Llma, platform: FakePlatform, tmp_path: Path) -> None:
    platform.respond_error(EXPORT, 403, message="Only an owner may.", code="insufficient_permissions")
    result = llma("admin", "usage", "export", str(tmp_path / "x.csv"))
    assert result.code == 3
    assert "Only an owner may." in result.err
    assert list(tmp_path.glob("x*")) == []


def test_an_unwritable_path_is_reported(llma: Llma, exported: bytes, tmp_path: Path) -> None:
    result = llma("admin", "usage", "export", str(tmp_path / "nowhere" / "x.csv"))
    assert result.code == 2
    assert "nowhere" in result.err


def test_parquet_without_its_package_names_the_package(
    llma: Llma, exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "arro3.io", None)
    result = llma("admin", "usage", "export", str(tmp_path / "x.parquet"))
    assert result.code == 2
    assert "llmariner-knative[parquet]" in result.err
