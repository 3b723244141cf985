"""Reports of sweeps over HTTP, in pages and by sweep."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.sweeps import SweepName
from tests.factories import insert_all, make_report
from tests.fakes.described import Described
from tests.fakes.served import Served, wait_for


@pytest.fixture(scope="module")
def reports(served: Served) -> list[Any]:
    """Twelve reports of two sweeps, newest first, later than all that ran at the start."""
    now = served.container.clock.now() + timedelta(minutes=1)
    names = [SweepName.GC_FILES, SweepName.DELIVERED_OUTPUTS, SweepName.GC_FILES]
    made = [
        make_report(started_at=now - timedelta(seconds=n // 2), sweep=names[n % 3])
        for n in range(12)
    ]
    served.write(lambda tx: insert_all(tx, *made))
    return sorted(made, key=lambda each: (each.started_at, each.id), reverse=True)


def pages(served: Served, described: Described, **query: Any) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    while True:
        page = described.check(served.http.get("/api/v1/sweeps", params=query))
        assert len(page["items"]) <= query["limit"]
        seen += page["items"]
        if page["next"] is None:
            return seen
        query["cursor"] = page["next"]


@pytest.mark.parametrize("limit", [1, 5, 200])
def test_reports_come_in_pages_newest_first_without_gap_or_double(
    served: Served, described: Described, reports: list[Any], limit: int
) -> None:
    seen = [each["id"] for each in pages(served, described, limit=limit)]
    assert seen[:12] == [each.id for each in reports]
    assert len(seen) == len(set(seen)) > 12


def test_reports_of_one_sweep_can_be_asked_for(
    served: Served, described: Described, reports: list[Any]
) -> None:
    name = SweepName.DELIVERED_OUTPUTS
    found = pages(served, described, limit=3, sweep=name.value)
    assert {each["sweep"] for each in found} == {name.value}
    wanted = [each.id for each in reports if each.sweep is name]
    assert [each["id"] for each in found][: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("query", "loc"),
    [
        ({"sweep": "gc_everything"}, "sweep"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"name": "gc_files"}, "name"),
    ],
)
def test_a_wrong_page_of_reports_is_refused_and_named(
    served: Served, described: Described, query: dict[str, str], loc: str
) -> None:
    response = served.http.get("/api/v1/sweeps", params=query)
    told = described.check(response)
    assert (response.status_code, told["errors"][0]["loc"]) == (422, loc)


def test_a_dry_run_of_old_records_tells_how_many_rows_would_go(
    served: Served, described: Described
) -> None:
    # The run at the start would take them between our two looks.
    reports = {"sweep": "old_records"}
    wait_for(lambda: served.http.get("/api/v1/sweeps", params=reports).json()["items"])
    at = served.container.clock.now() - timedelta(days=3)
    old = [make_report(sweep=SweepName.STALE_SESSIONS, started_at=at) for _ in range(2)]
    served.write(lambda tx: insert_all(tx, *old))
    path = "/api/v1/sweeps/old_records"
    dry = described.check(served.http.post(path, params={"dry_run": "true"}))
    (victim,) = [each for each in dry["victims"] if each["kind"] == "sweep_reports"]
    assert (dry["removed"], victim["why"]) == (0, "kept long enough; rows: 2")
    assert described.check(served.http.post(path))["removed"] == 2
    assert served.http.post(path).json()["removed"] == 0
