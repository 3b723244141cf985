"""Every path that the server and its children ever create lies below the data folder."""

from collections.abc import Callable
from pathlib import Path

from app.domain.layout import UPLOADS, WORK
from tests.e2e.creations import Creations
from tests.e2e.harness import Server, wait_for
from tests.e2e.wire import await_job, open_session, upload


def test_nothing_is_ever_created_outside_the_data_folder(
    make_server: Callable[..., Server], short_clip: Path, tmp_path: Path
) -> None:
    creations = Creations(tmp_path / "trace")
    server = make_server(wrapper=creations.wrapper).start()
    then = {"operation": "trim", "params": {"start": 0.5, "end": 1.5}}
    with server.client() as api:
        session_id = open_session(api, expected_files=1, then=then)
        finished = upload(api, short_clip.read_bytes(), filename="a.mp4", session=session_id)
        job = await_job(api, finished.headers["tidemill-job"])
        assert job["status"] == "completed", job
        assert api.get(job["outputs"][0]["url"]).is_success
        assert api.get("/metrics").is_success
        assert api.get("/docs").is_success
    server.stop()
    trace = tmp_path / "trace"
    wait_for(lambda: f"{server.data}/outputs/" in trace.read_text(errors="replace"), "the trace")
    created = creations.take()
    inside = {path for path in created if path.startswith(f"{server.data}")}
    assert any(f"/{UPLOADS}/" in path for path in inside)
    assert any(f"/{WORK}/" in path for path in inside)
    assert created - inside == set()
