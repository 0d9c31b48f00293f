"""`llma admin showback`: bars by day, totals by group, exports, prices."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arro3.io import read_parquet

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

DAY = 86_400
USAGE = "GET /organization/usage/compute"


def bucket(day: int, **projects: float) -> dict[str, Any]:
    results = [
        {
            "gpu_seconds": 0,
            "core_seconds": cores * 3600,
            "memory_gib_seconds": 7200,
            "amount": {"value": cores / 10, "currency": "usd"},
            "project_id": name if name != "shared" else None,
        }
        for name, cores in projects.items()
    ]
    return {"start_time": day, "end_time": day + DAY, "results": results}


def test_hours_are_shown_by_day_and_by_project(llma: Llma, platform: FakePlatform) -> None:
    today = int(time.time()) // DAY * DAY
    buckets = [bucket(today - DAY, shared=8.0), bucket(today, proj_1=1.5, proj_2=2.5)]
    platform.respond(USAGE, {"data": buckets, "has_more": False})
    platform.respond("GET /organizations", {"organizations": [{"id": "org_1", "title": "Acme"}]})
    platform.respond("GET /organizations/org_1/projects", {"projects": [{"id": "proj_1", "title": "vision"}]})
    result = llma("admin", "showback", "show", "--days", "2")
    lines = result.out.splitlines()
    assert [line.split()[:5] for line in lines[1:3]] == [
        [time.strftime("%Y-%m-%d", time.gmtime(day)), "0.000", cores, hours, cost]
        for day, cores, hours, cost in (
            (today - DAY, "8.000", "2.000", "0.800000"),
            (today, "4.000", "4.000", "0.400000"),
        )
    ]
    assert [line.count("█") for line in lines[1:3]] == [40, 20], "bars are of cores where there is no GPU"
    assert [line.split("  ")[0] for line in lines[5:]] == ["(shared, unused)", "proj_2", "vision"]
    first = platform.requests[0].query
    assert (first["bucket_width"], first["limit"], int(first["start_time"])) == ("1d", "2", today - DAY)
    assert [request.query.get("group_by") for request in platform.requests if "compute" in request.path] == [
        None,
        "project_id",
    ]


def test_what_was_measured_is_shown_by_its_share_of_what_was_measured(llma: Llma, platform: FakePlatform) -> None:
    today = int(time.time()) // DAY * DAY
    first, second = bucket(today - DAY, proj_1=1.0, proj_2=1.0), bucket(today, proj_1=1.0)
    first["results"][0] |= {"gpu_measured_seconds": 3000, "gpu_utilization": 0.5, "gpu_idle_share": 0.25}
    second["results"][0] |= {"gpu_measured_seconds": 1000, "gpu_utilization": 0.1, "gpu_idle_share": 0.25}
    platform.respond(USAGE, {"data": [first, second], "has_more": False})
    lines = llma("admin", "showback", "show", "--days", "2").out.splitlines()
    assert lines[0].split("HOURS")[-1].split() == ["GPU", "USED", "GPU", "IDLE", "COST", "$"]
    assert [line.split()[4:6] for line in lines[1:3]] == [["50.0%", "25.0%"], ["10.0%", "25.0%"]]
    assert [line.split()[4:6] for line in lines[5:]] == [["40.0%", "25.0%"], ["-", "-"]]


def test_nothing_held_says_so(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(USAGE, {"data": [], "has_more": False})
    assert llma("admin", "showback", "--help").code == 0
    assert "Nothing was held" in llma("admin", "showback", "show", "--by", "kind").err


def test_an_export_to_parquet_has_numbers(llma: Llma, platform: FakePlatform, tmp_path: Path) -> None:
    text = "allocation_id,gpu_count,millicores,memory_mib,started_at,ended_at,held_seconds,cost_usd\n"
    platform.respond_with(f"{USAGE}/allocations", chunks=[(text + "a,2,1500,1024,10.5,,4.25,0.000000001\n").encode()])
    assert llma("admin", "showback", "export", str(tmp_path / "x.parquet")).code == 0
    table = read_parquet(tmp_path / "x.parquet").read_all()
    assert {name: table[name].to_pylist()[0] for name in table.column_names} == {
        "allocation_id": "a",
        "gpu_count": 2,
        "millicores": 1500,
        "memory_mib": 1024,
        "started_at": 10.5,
        "ended_at": None,
        "held_seconds": 4.25,
        "cost_nano_usd": 1,
    }
