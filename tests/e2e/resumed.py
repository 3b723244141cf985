"""Whether interrupted uploads went on where they were: looked up on the disk and on the wire."""

from collections.abc import Mapping

import httpx

from tests.e2e.harness import Server, wait_for
from tests.e2e.heads import Head
from tests.e2e.node import Run
from tests.e2e.proxy import Proxy
from tests.e2e.wire import TUS

ACCEPTED = {200, 201, 204}
SLOWLY = 128 * 1024
"""Bytes a second: nothing of some megabytes ends while a server stops."""


def stored_bytes(server: Server) -> dict[str, int]:
    """Return the size of each upload's file."""
    found = {}
    for path in (server.data / "uploads").iterdir():
        try:
            found[path.name] = path.stat().st_size
        except FileNotFoundError:
            continue
    return found


def new_uploads(server: Server, before: Mapping[str, int]) -> dict[str, int]:
    """Return what is stored now and was not; what went meanwhile is somebody else's."""
    return {name: size for name, size in stored_bytes(server).items() if name not in before}


def acknowledged_bytes(heads: list[Head]) -> dict[str, int]:
    """Return how far each upload that was sent with checksums is acknowledged: all that counts."""
    found: dict[str, int] = {}
    for head in heads:
        if head.asked == "PATCH" and "upload-checksum" in head.headers:
            found.setdefault(head.upload_id, 0)
            if head.status in ACCEPTED:
                found[head.upload_id] = int(head.answer["upload-offset"])
    return found


class Interruption:
    """The moment at which ``parts`` uploads of a client, new since this was made, have bytes."""

    def __init__(self, server: Server, proxy: Proxy, *, parts: int = 1) -> None:
        self._server = server
        self._proxy = proxy
        self._parts = parts
        self._before = stored_bytes(server)
        self._begin = len(proxy.heads)
        self.since = 0
        self.stored: dict[str, int] = {}

    def wait(self, run: Run | None = None, seconds: float = 30.0) -> None:
        """Wait until nothing is carried any more and each upload has bytes on the disk."""

        def look() -> bool:
            assert run is None or not run.has_ended, f"it ended: {run.events}"
            self.look()
            heads = self._proxy.heads[self._begin :]
            # Bytes may come with a creation, whose address nobody knows before it is answered.
            is_creating = any(head.creates and head.status is None for head in heads)
            has_all = len(self.stored) == self._parts
            return self._proxy.is_holding and has_all and not is_creating

        try:
            wait_for(look, f"bytes of {self._parts} uploads on the disk", seconds)
        except AssertionError as error:
            asked = "\n".join(map(str, self._proxy.heads[self._begin :]))
            msg = f"{error}: {self.stored}\n{asked}"
            raise AssertionError(msg) from error

    def cut_once_held(self) -> None:
        """Wait for the moment, then break every line and hold nothing any more."""
        self.wait()
        self._proxy.cut_all()
        self._proxy.let_go()

    def look(self) -> None:
        """Note what is stored now, and which requests there were."""
        heads = self._proxy.heads[self._begin :]
        self.since = self._begin + len(heads)
        new = new_uploads(self._server, self._before)
        stored = {name: size for name, size in new.items() if size}
        self.stored = stored | acknowledged_bytes(heads)

    def assert_went_on(self, *, creations: int | None = None) -> None:
        """After it every upload went on at what was stored or behind it; none was made anew."""
        assert_went_on(
            self._proxy.heads[self._begin :],
            self.stored,
            since=self.since - self._begin,
            creations=self._parts if creations is None else creations,
        )


def restart_while_held(
    server: Server, proxy: Proxy, way: str, interruption: Interruption | None = None
) -> None:
    """Stop ("stop": SIGTERM) or kill the server under a running upload, and start it again.

    What is stored is noted once no process writes any more: from there its client must go on.
    """
    proxy.slow_down(SLOWLY)
    if way == "kill":
        server.kill()
        proxy.cut_all()
    proxy.let_go()
    if way == "stop":
        assert server.stop() == 0
    if interruption is not None:
        interruption.look()
    server.start()
    proxy.speed_up()


def interrupt(server: Server, proxy: Proxy, way: str, interruption: Interruption) -> None:
    """Cut every line ("cut"), or "stop" or "kill" the service, under what is held at the moment."""
    if way == "cut":
        proxy.cut_all()
        proxy.let_go()
    else:
        restart_while_held(server, proxy, way, interruption)


def assert_went_on(
    heads: list[Head], stored: Mapping[str, int], *, since: int, creations: int
) -> None:
    """``stored``: bytes by upload at the moment when ``since`` requests had been made.

    Browsers send a request again by themselves when a connection that they had used before breaks:
    with its old offset it must be refused.
    """
    shown = "\n".join(map(str, heads))
    assert len([head for head in heads if head.creates]) == creations, shown
    seen: dict[str, int] = {}
    for head in heads[since:]:
        if head.asked == "PATCH" and head.status in ACCEPTED:
            seen.setdefault(head.upload_id, head.offset)
    for upload_id, offset in seen.items():
        assert offset >= stored.get(upload_id, 0), f"it went back to {offset}:\n{shown}"


def assert_is_there(
    server: Server,
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    credentials: Mapping[str, str] | None = None,
) -> None:
    """HEAD, the last response of the client (if it tells any header) and the batch agree; the bytes
    are these.
    """
    upload_id = url.rsplit("/", 1)[-1]
    with server.client(headers=credentials) as http:
        head = http.head(f"/files/{upload_id}", headers=TUS)
        assert head.status_code == 200
        assert head.headers["upload-offset"] == str(len(content))
        if headers:
            told = httpx.Headers(headers)
            assert told["tidemill-upload"] == upload_id
            assert told["tidemill-batch"] == head.headers["tidemill-batch"]
        batch = http.get(f"/api/v1/batches/{head.headers['tidemill-batch']}").json()
        assert upload_id in [file["id"] for file in batch["files"]]
        assert http.get(f"/files/{upload_id}").content == content
