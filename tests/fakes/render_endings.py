"""The ways in which a synchronous render can end, each played once and its traces looked at."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.e2e.harness import wait_for
from tests.fakes.false_ffmpeg import BIG_BYTES, Ending, say
from tests.fakes.render_bench import Before, RenderBench
from tests.fakes.render_calls import Answered, Caller, Part, Request, form, json_request
from tests.fakes.render_rows import EndpointRow

READ_BYTES = 64 * 1024
LIMITS: Mapping[str, object] = {"SYNC_TIMEOUT_SECONDS": 8, "STALL_SECONDS": 3}
"""Of the server on which renders take too long: the others on it are done in a second or two."""
FAILED, TIMED_OUT = "render.failed", "render.timed_out"

Leaving = Callable[[Caller], None]


@dataclass(frozen=True, slots=True)
class Played:
    """What a client saw, and when all was over by the monotonic clock; ``seconds`` is how long the
    cleaning took, where that was already seen.
    """

    answer: Answered | None
    over_at: float
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One way to end. ``play`` returns when it has; ``status`` and ``code`` are what a client that
    is still there is told; ``event`` is what the log must say exactly once. ``restarts``: the server
    is another one afterwards, so that its counters begin anew. ``renders``: a job was begun.
    ``is_late``: for a server with little patience (``LIMITS``).
    """

    name: str
    play: Callable[["Way", RenderBench, Request, Before], Played]
    ending: Ending = Ending.REAL
    leave: Leaving = Caller.reset
    status: int | None = None
    code: str = ""
    event: str | None = None
    restarts: bool = False
    renders: bool = True
    is_late: bool = False


# --- to the end ---


def _to_the_end(way: Way, bench: RenderBench, request: Request, _: Before) -> Played:
    with Caller(bench.server.port, request) as caller:
        caller.send()
        answer = caller.answer()
        return Played(answer, time.monotonic())


# --- the client leaves ---


def _leaves_in_upload(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
    with Caller(bench.server.port, request) as caller:
        _send_half(bench, caller, request)
        way.leave(caller)
        return _after_leaving(bench, before, None)


def _leaves_in_render(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
    with Caller(bench.server.port, request) as caller:
        caller.send()
        bench.wait_for_render()
        way.leave(caller)
        return _after_leaving(bench, before, None)


def _leaves_in_download(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
    with Caller(bench.server.port, request) as caller:
        caller.send()
        answer = _begin_download(caller)
        way.leave(caller)
        return _after_leaving(bench, before, answer)


def _after_leaving(bench: RenderBench, before: Before, answer: Answered | None) -> Played:
    """Look at all of it while the connection of a client that said FIN is still half open."""
    over_at = time.monotonic()
    return Played(answer, over_at, bench.wait_until_clean(before))


def _send_half(bench: RenderBench, caller: Caller, request: Request) -> None:
    known = bench.paths()
    caller.send_half()
    if request.content_type.startswith("multipart"):
        bench.wait_for_bytes(known)
    else:  # of a few bytes of JSON nothing is to be seen anywhere
        time.sleep(0.3)


def _begin_download(caller: Caller) -> Answered:
    answer = caller.answer(READ_BYTES)
    assert answer is not None
    assert answer.status == 200, answer
    assert int(answer.headers["content-length"]) > BIG_BYTES
    return answer


# --- the service stops, or is killed ---


def _stops(bench: RenderBench) -> None:
    assert bench.server.stop() == 0


def _is_killed(bench: RenderBench) -> None:
    bench.server.kill()
    wait_for(lambda: bench.encoders() == [], "the death of the children", 5)


def _ends_in_all(end: Callable[[RenderBench], None]) -> Callable[..., Played]:
    """Three calls, one at each moment: for whoever has no time for three starts."""

    def play(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
        body = request.body.replace(say(way.ending), say(Ending.BIG))
        big = replace(request, body=body)
        with (
            Caller(bench.server.port, big) as downloading,
            Caller(bench.server.port, request) as rendering,
            Caller(bench.server.port, request) as uploading,
        ):
            downloading.send()
            _begin_download(downloading)
            rendering.send()
            bench.wait_for_render()
            _send_half(bench, uploading, request)
            return _end(end, bench, rendering)

    return play


def _ends_in_upload(end: Callable[[RenderBench], None]) -> Callable[..., Played]:
    def play(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
        with Caller(bench.server.port, request) as caller:
            _send_half(bench, caller, request)
            return _end(end, bench, caller)

    return play


def _ends_in_render(end: Callable[[RenderBench], None]) -> Callable[..., Played]:
    def play(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
        with Caller(bench.server.port, request) as caller:
            caller.send()
            bench.wait_for_render()
            return _end(end, bench, caller)

    return play


def _ends_in_download(end: Callable[[RenderBench], None]) -> Callable[..., Played]:
    def play(way: Way, bench: RenderBench, request: Request, before: Before) -> Played:
        with Caller(bench.server.port, request) as caller:
            caller.send()
            _begin_download(caller)
            return _end(end, bench, caller, has_answer=True)

    return play


def _end(
    end: Callable[[RenderBench], None],
    bench: RenderBench,
    caller: Caller,
    *,
    has_answer: bool = False,
) -> Played:
    """End the server and start the next one; a stop leaves nothing for that to do."""
    end(bench)
    answer = None if has_answer else caller.answer()
    if end is _stops:
        left = [path for path in (bench.server.data / "work").rglob("*") if not path.is_dir()]
        left += list((bench.server.data / "outputs").iterdir())
        assert left == [], "a stop leaves its files to nobody"
    bench.server.start()
    return Played(answer, time.monotonic())


# --- bad input ---


def spoilt(bench: RenderBench, row: EndpointRow) -> Request:
    """The same call with something else in place of each clip."""
    rubbish = os.urandom(300_000)
    if row.is_by_id:
        return json_request(row.path, {"segments": [{"upload_id": "0" * 32, "order": 0}] * 2})
    parts = [Part(name, f"{name}.mp4", rubbish) for name in row.files]
    return form(row.path, row.fields, parts)


def _leaving(moment: str, play: Callable[..., Played], ending: Ending) -> list[Way]:
    return [
        Way(f"client gone in {moment}, {how}", play, ending, leave, renders=moment != "upload")
        for how, leave in (("reset", Caller.reset), ("closed", Caller.hang_up))
    ]


def _ending_service(how: str, end: Callable[[RenderBench], None]) -> list[Way]:
    return [
        Way(f"{how} in upload", _ends_in_upload(end), restarts=True, renders=False),
        Way(f"{how} in render", _ends_in_render(end), Ending.SLEEPS, restarts=True),
        Way(f"{how} in download", _ends_in_download(end), Ending.BIG, restarts=True),
    ]


def _failing(name: str, ending: Ending) -> Way:
    return Way(name, _to_the_end, ending, status=500, code="render_failed", event=FAILED)


def _too_long(name: str, ending: Ending) -> Way:
    return Way(
        name,
        _to_the_end,
        ending,
        status=504,
        code="timeout",
        event=TIMED_OUT,
        is_late=True,
    )


BAD_INPUT = "bad input"
TOO_LONG = "FFmpeg takes too long"
WAYS = {
    way.name: way
    for way in (
        Way("full download", _to_the_end, Ending.BIG, status=200),
        *_leaving("upload", _leaves_in_upload, Ending.REAL),
        *_leaving("render", _leaves_in_render, Ending.SLEEPS),
        *_leaving("download", _leaves_in_download, Ending.BIG),
        _failing("FFmpeg fails", Ending.FAILS),
        _failing("FFmpeg is killed half-way", Ending.HALF),
        _failing("FFmpeg writes nothing", Ending.NOTHING),
        _failing("FFmpeg writes no video", Ending.NO_VIDEO),
        _too_long(TOO_LONG, Ending.SLEEPS),
        _too_long("FFmpeg stalls", Ending.STALLS),
        Way(BAD_INPUT, _to_the_end, renders=False),
        *_ending_service("stop", _stops),
        *_ending_service("kill -9", _is_killed),
    )
}
ALL_MOMENTS = {
    way.name: way
    for way in (
        Way("stop at every moment", _ends_in_all(_stops), Ending.SLEEPS, restarts=True),
        Way("kill -9 at every moment", _ends_in_all(_is_killed), Ending.SLEEPS, restarts=True),
    )
}
"""The last six at once, for each time."""
FEW = ("full download", "client gone in render, closed")
"""The ways that every endpoint is put through each time."""
