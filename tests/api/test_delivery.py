"""One-time outputs: what proves that their owner has them, and what does not."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import pytest

from app.api.socket_sender import TAKEN_SECONDS
from app.domain.access import OWNER
from app.domain.delivery import ByteSpan
from app.domain.outputs import Output, OutputStatus
from app.domain.sweeps import SweepName, Trigger
from tests.factories import insert_all, make_ended_job, make_output
from tests.fakes.direct import Blunt, Direct
from tests.fakes.served import Served, settings_for, wait_for

SIZE = 3 * 1024 * 1024
SETTLED_SECONDS = TAKEN_SECONDS + 10
AT_ONCE_SECONDS = TAKEN_SECONDS - 1
"""Sooner than a client is believed that says nothing."""
GRACE = 60.0


class OneTime(NamedTuple):
    job_id: str
    output_id: str
    path: str
    data: bytes


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Direct]:
    data = tmp_path_factory.mktemp("direct") / "data"
    settings = settings_for(
        data, jobs={"workers": 0}, retention={"delivery_grace_seconds": GRACE, "ttl_max_hours": 48}
    )
    with Direct(settings) as running:
        yield running


def store(served: Served, data: bytes | None = None, *, one_time: bool = True) -> OneTime:
    """A completed job with one output, as its worker would have left them."""
    data = os.urandom(SIZE) if data is None else data
    now = served.container.clock.now()
    end = now + timedelta(hours=1)
    job = make_ended_job(
        inputs=(), one_time=one_time, created_at=now, completed_at=now, expires_at=end
    )
    output = make_output(
        job_id=job.id,
        one_time=one_time,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        created_at=now,
        expires_at=end,
    )
    served.write(lambda tx: insert_all(tx, job, output))
    path = served.data / "outputs" / output.id
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return OneTime(job.id, output.id, f"/api/v1/outputs/{output.id}", data)


def row(served: Served, one: OneTime) -> Output:
    output = served.read(lambda tx: tx.outputs.find(one.output_id))
    assert output is not None
    return output


def spans(served: Served, one: OneTime) -> tuple[ByteSpan, ...]:
    return served.read(lambda tx: tx.deliveries.spans(one.output_id, OWNER))


def is_delivered(served: Served, one: OneTime) -> bool:
    return row(served, one).status is OutputStatus.DELIVERED


def await_quiet(served: Served, seconds: float = SETTLED_SECONDS) -> None:
    """Wait until no request is being served any more, also none that looks after its delivery."""
    wait_for(lambda: not served._server.server_state.tasks, seconds)


def test_a_download_that_ends_with_a_goodbye_is_delivered_at_once(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        assert client.fetch(one.path) == one.data
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)
    job = direct.http.get(f"/api/v1/jobs/{one.job_id}").json()
    (shown,) = job["outputs"]
    assert (job["status"], shown["status"], shown["one_time"]) == ("completed", "delivered", True)
    assert shown["delivered_at"] is not None
    # Within the grace it can be had again.
    assert direct.http.get(one.path).content == one.data


def test_a_client_that_stays_connected_has_it_after_a_while_and_waits_for_nothing(
    direct: Direct,
) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        assert client.fetch(one.path) == one.data
        assert not is_delivered(direct, one)
        wait_for(lambda: is_delivered(direct, one), SETTLED_SECONDS)


def test_the_next_request_of_a_client_says_that_it_has_read_the_answer(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        client.fetch(one.path)
        began = time.monotonic()
        client.ask("/livez")
        status, headers = client.head()
        assert status == 200
        assert time.monotonic() - began < AT_ONCE_SECONDS
        client.read(int(headers["content-length"]))
        wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)


def test_a_client_that_closes_the_connection_itself_is_answered_without_delay(
    direct: Direct,
) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        began = time.monotonic()
        client.ask(one.path, connection="close")
        client.head()
        assert client.read(SIZE + 1) == one.data  # to the end of the connection
        assert time.monotonic() - began < AT_ONCE_SECONDS
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)


@pytest.mark.parametrize(("size", "buffer"), [(SIZE, None), (150_000, 400_000)])
def test_a_client_that_breaks_off_after_a_tenth_has_nothing(
    direct: Direct, size: int, buffer: int | None
) -> None:
    # Of the small one its system has confirmed every byte before it breaks off.
    one = store(direct, os.urandom(size))
    with Blunt(direct.port, buffer=buffer) as client:
        client.ask(one.path)
        client.head()
        assert len(client.read(size // 10)) == size // 10
        time.sleep(0.3)
        client.reset()
    await_quiet(direct)
    assert row(direct, one).status is OutputStatus.AVAILABLE
    assert spans(direct, one) == ()


def test_a_client_that_reads_all_and_then_resets_has_proved_nothing(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        assert client.fetch(one.path) == one.data
        client.reset()
    await_quiet(direct)
    assert row(direct, one).status is OutputStatus.AVAILABLE
    assert spans(direct, one) == ()


def test_a_client_that_closes_with_bytes_unread_has_nothing(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        client.ask(one.path)
        client.head()
        client.read(SIZE // 2)
    await_quiet(direct)
    assert row(direct, one).status is OutputStatus.AVAILABLE


def test_a_client_that_says_goodbye_in_the_middle_has_nothing(direct: Direct) -> None:
    one = store(direct, os.urandom(40 * 1024 * 1024))
    with Blunt(direct.port, buffer=100_000) as client:
        client.ask(one.path)
        client.head()
        client.read(1000)
        client.socket.shutdown(socket.SHUT_WR)
        await_quiet(direct)
    assert row(direct, one).status is OutputStatus.AVAILABLE
    assert spans(direct, one) == ()


def test_a_slow_reader_that_comes_to_the_end_is_delivered(direct: Direct) -> None:
    one = store(direct, os.urandom(1_500_000))
    with Blunt(direct.port, buffer=64_000) as client:
        client.ask(one.path)
        client.head()
        got = client.read(1_500_000, per_second=300_000)
    assert got == one.data
    wait_for(lambda: is_delivered(direct, one), SETTLED_SECONDS)


@pytest.mark.parametrize("parts", [("0-1999999", "2000000-"), ("0-2500000", "1000000-3145727")])
def test_two_parts_that_cover_it_deliver_it(direct: Direct, parts: tuple[str, str]) -> None:
    one = store(direct)
    for number, part in enumerate(parts):
        with Blunt(direct.port) as client:
            client.fetch(one.path, range=f"bytes={part}")
        wait_for(lambda: spans(direct, one), AT_ONCE_SECONDS)
        if number == 0:
            assert not is_delivered(direct, one)
            assert row(direct, one).delivered_at is None
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)
    assert spans(direct, one) == (ByteSpan(0, SIZE),)


def test_parts_on_one_connection_are_each_counted(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        got = [
            client.fetch(one.path, range=f"bytes={start}-{start + SIZE // 6 - 1}")
            for start in range(0, SIZE, SIZE // 6)
        ]
    assert b"".join(got) == one.data
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)


def test_parts_asked_for_at_once_come_in_order_and_are_each_counted(direct: Direct) -> None:
    one = store(direct)
    third = SIZE // 3
    with Blunt(direct.port, buffer=64_000) as client:
        for start in range(0, SIZE, third):
            client.ask(one.path, range=f"bytes={start}-{start + third - 1}")
        got = b""
        for _ in range(3):
            status, headers = client.head()
            assert (status, headers["content-length"]) == (206, str(third))
            got += client.read(third)
        assert got == one.data
        wait_for(lambda: is_delivered(direct, one), SETTLED_SECONDS)


def test_parts_with_a_hole_between_them_deliver_nothing(direct: Direct) -> None:
    one = store(direct)
    for part in ("0-999999", "1000001-"):
        with Blunt(direct.port) as client:
            client.fetch(one.path, range=f"bytes={part}")
    wait_for(lambda: len(spans(direct, one)) == 2, AT_ONCE_SECONDS)
    assert not is_delivered(direct, one)
    with Blunt(direct.port) as client:
        assert client.fetch(one.path, range="bytes=1000000-1000000") == one.data[10**6 : 10**6 + 1]
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)


def test_asking_without_taking_delivers_nothing(direct: Direct) -> None:
    one = store(direct)
    tag = f'"{row(direct, one).sha256}"'
    assert direct.http.head(one.path).status_code == 200
    assert direct.http.get(one.path, headers={"if-none-match": tag}).status_code == 304
    assert direct.http.get(one.path, headers={"range": f"bytes={SIZE}-"}).status_code == 416
    await_quiet(direct)
    assert row(direct, one).status is OutputStatus.AVAILABLE
    assert spans(direct, one) == ()


def test_an_empty_output_is_delivered_by_one_download(direct: Direct) -> None:
    one = store(direct, b"")
    with Blunt(direct.port) as client:
        assert client.fetch(one.path) == b""
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)


def test_the_jobs_own_address_delivers_as_well(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        assert client.fetch(f"/api/v1/jobs/{one.job_id}/output") == one.data
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)


def test_other_outputs_are_not_followed_at_all(direct: Direct) -> None:
    plain = store(direct, one_time=False)
    with Blunt(direct.port) as client:
        assert client.fetch(plain.path) == plain.data
        await_quiet(direct)
    assert row(direct, plain).status is OutputStatus.AVAILABLE
    assert spans(direct, plain) == ()


def test_many_downloads_at_once_deliver_it_once(direct: Direct) -> None:
    one = store(direct)
    gate = threading.Barrier(8)

    def download() -> None:
        gate.wait()
        with Blunt(direct.port) as client:
            client.fetch(one.path)

    threads = [threading.Thread(target=download) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    await_quiet(direct)
    assert is_delivered(direct, one)
    assert spans(direct, one) == (ByteSpan(0, SIZE),)


def test_through_a_proxy_that_takes_all_it_is_delivered_and_stays_for_its_grace(
    direct: Direct,
) -> None:
    one = store(direct)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=proxy, args=(listener, direct.port))
        thread.start()
        with Blunt(listener.getsockname()[1]) as client:
            client.ask(one.path, connection="close")
            client.head()
            client.read(100)
            client.reset()  # has next to nothing; but who knows of that?
        thread.join(20)
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)
    sweep(direct)
    assert direct.http.get(one.path).content == one.data


def proxy(listener: socket.socket, port: int) -> None:
    """Pass one request on, and read its answer to the end whatever the client does."""
    client, _ = listener.accept()
    with client, Blunt(port) as origin:
        origin.socket.sendall(client.recv(65536))
        answer = origin.read(10 * SIZE)
        try:
            client.sendall(answer)
        except OSError:
            return


def sweep(served: Served) -> int:
    run = served.container.sweeps.run(SweepName.DELIVERED_OUTPUTS, trigger=Trigger.MANUAL)
    report, _ = served.call(run)
    return report.removed


def test_after_its_grace_it_is_gone_and_its_job_says_why(direct: Direct) -> None:
    one = store(direct)
    with Blunt(direct.port) as client:
        client.fetch(one.path)
    wait_for(lambda: is_delivered(direct, one), AT_ONCE_SECONDS)
    sweep(direct)
    assert is_delivered(direct, one)
    delivered = row(direct, one)
    past = delivered.delivered_at
    assert past is not None
    earlier = replace(delivered, delivered_at=past - timedelta(seconds=GRACE))
    direct.write(lambda tx: tx.outputs.update(earlier, expected=OutputStatus.DELIVERED))
    assert sweep(direct) >= 1
    assert not (direct.data / "outputs" / one.output_id).exists()
    for address in (one.path, f"/api/v1/jobs/{one.job_id}/output"):
        told = direct.http.get(address)
        assert (told.status_code, told.json()["reason"]) == (410, "delivered")
        assert told.json()["sweep"] == "delivered_outputs"
    job = direct.http.get(f"/api/v1/jobs/{one.job_id}").json()
    assert (job["status"], job["outputs"]) == ("completed", [])


def test_a_receipt_removes_it_at_once_before_and_after_delivery(direct: Direct) -> None:
    for is_read in (False, True):
        one = store(direct)
        if is_read:
            with Blunt(direct.port) as client:
                client.fetch(one.path)
            wait_for(lambda one=one: is_delivered(direct, one), AT_ONCE_SECONDS)  # type: ignore[misc]
        assert direct.http.delete(one.path).status_code == 204
        assert not (direct.data / "outputs" / one.output_id).exists()
        assert direct.http.get(one.path).json()["reason"] == "output_deleted"


def test_a_receipt_while_it_is_sent_takes_no_byte_from_the_download(direct: Direct) -> None:
    one = store(direct, os.urandom(20 * 1024 * 1024))
    with Blunt(direct.port, buffer=64_000) as client:
        client.ask(one.path)
        client.head()
        first = client.read(1000)
        assert direct.http.delete(one.path).status_code == 204
        assert first + client.read(len(one.data) - 1000) == one.data
    await_quiet(direct)
    assert direct.http.get(one.path).status_code == 410


def test_without_a_socket_of_ones_own_nothing_is_proved(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("indirect") / "data"
    with Served(settings_for(data, jobs={"workers": 0})) as served:
        one = store(served)
        assert served.http.get(one.path).content == one.data
        await_quiet(served)
        assert row(served, one).status is OutputStatus.AVAILABLE
        assert spans(served, one) == ()
