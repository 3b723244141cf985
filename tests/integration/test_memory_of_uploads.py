"""What a process remembers of uploads once their requests are over: nothing."""

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.fakes.served import TUS, Served, settings_for, wait_for

LATEST = 12
"""Uploads that may still be known of, fewer than there are of each kind: a thread keeps the context of
its last work, a connection its last statements.
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("memory") / "data"
    # What is logged, pytest keeps for its report.
    with Served(settings_for(data, service={"log_level": "error"})) as running:
        yield running


def drop(served: Served, upload_id: str) -> None:
    """Begin a PATCH and vanish in the middle of its body."""
    head = (
        f"PATCH /files/{upload_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\n"
        "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
        "Content-Length: 300000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        line.sendall(head.encode() + bytes(1000))
        place = served.data / "uploads" / upload_id
        wait_for(lambda: place.exists() and place.stat().st_size == 1000)


def use(served: Served, count: int) -> list[str]:
    """Make uploads that are completed, deleted, terminated and dropped, by turns; return all ids."""
    ids = []
    for number in range(count):
        if number % 4 < 2:
            ids.append(served.upload(b"whole", filename="a.mp4"))
        else:
            ids.append(served.create_upload(300_000))
        place = f"/files/{ids[-1]}"
        if number % 4 == 0:
            batch = served.http.head(place, headers=TUS).headers["tidemill-batch"]
            assert served.http.delete(f"/api/v1/batches/{batch}").status_code == 204
        elif number % 4 == 2:
            assert served.http.delete(place, headers=TUS).status_code == 204
        elif number % 4 == 3:
            drop(served, ids[-1])
    return ids


def known(ids: list[str]) -> set[str]:
    """Those of ``ids`` that anything in this process refers to, but for the list itself."""
    wanted, found = set(ids), set[str]()
    gc.collect()
    for thing in gc.get_objects():
        if thing is ids or thing is wanted or thing is found:
            continue
        for each in gc.get_referents(thing):
            if type(each) is str and each in wanted:
                found.add(each)
    return found


def ours() -> Counter[str]:
    """How many objects of our own classes there are."""
    gc.collect()
    names = (f"{type(thing).__module__}.{type(thing).__name__}" for thing in gc.get_objects())
    return Counter(name for name in names if name.startswith("app."))


async def forget_timers() -> None:
    """Have the loop drop cancelled timers, which hold their contexts: it does when they are many."""
    for _ in range(1000):
        asyncio.get_running_loop().call_later(3600, forget_timers).cancel()
    await asyncio.sleep(0)


def check(served: Served, count: int) -> None:
    use(served, 12)
    served.call(forget_timers())
    before = ours()
    ids = use(served, count)

    def is_forgotten() -> bool:
        served.call(forget_timers())
        return len(known(ids)) <= LATEST and max([0, *(ours() - before).values()]) < count // 2

    # What waits for the last ones, their digests for instance, comes to its end by itself.
    wait_for(is_forgotten)


def test_nothing_is_kept_in_memory_of_uploads_that_are_over(served: Served) -> None:
    check(served, 60)


@pytest.mark.long
def test_nothing_is_kept_in_memory_of_many_uploads_that_are_over(served: Served) -> None:
    check(served, 1000)
