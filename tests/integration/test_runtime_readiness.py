"""/readyz says which part fails, while the service lives on and takes what it can."""

import shutil
from pathlib import Path

from tests.fakes.media_bench import scripted_ffmpeg
from tests.runtime_process import Service, eventually, run_command, service


def failing(running: Service) -> dict[str, str]:
    answer = running.get("/readyz")
    parts = {part["name"]: part for part in answer.json()["parts"]}
    found = {name: part["detail"] for name, part in parts.items() if part["state"] == "failing"}
    assert answer.status_code == (503 if found else 200)
    assert running.get("/livez").status_code == 200
    return found


def test_a_missing_ffmpeg_fails_readiness_and_jobs_wait(tmp_path: Path) -> None:
    with service(tmp_path, variables={"TIDEMILL_FFMPEG_PATH": "/no/such/ffmpeg"}) as running:
        found = failing(running)
        assert list(found) == ["ffmpeg"]
        assert "/no/such/ffmpeg" in found["ffmpeg"]
        assert running.events("ffmpeg.unusable")
        assert running.stop() == 0


def test_an_ffmpeg_that_the_sandbox_shuts_out_is_named(tmp_path: Path) -> None:
    # It answers outside; inside bubblewrap it does not find the program that it calls.
    script = scripted_ffmpeg(tmp_path / "ffmpeg-wrapper", 'exec "$FFMPEG" "$@"')
    with service(tmp_path, variables={"TIDEMILL_FFMPEG_PATH": str(script)}) as running:
        parts = {part["name"]: part for part in running.get("/readyz").json()["parts"]}
        assert parts["ffmpeg"]["state"] == "degraded"
        assert "TIDEMILL_SANDBOX=off" in parts["ffmpeg"]["detail"]
        assert running.events("ffmpeg.shut_out")
    variables = {"TIDEMILL_FFMPEG_PATH": str(script), "TIDEMILL_SANDBOX": "off"}
    with service(tmp_path, variables=variables) as running:
        parts = {part["name"]: part for part in running.get("/readyz").json()["parts"]}
        assert parts["ffmpeg"]["state"] == "ok"


def test_an_ffmpeg_that_goes_away_fails_readiness(tmp_path: Path) -> None:
    import imageio_ffmpeg  # noqa: PLC0415 - only here

    copy = tmp_path / "ffmpeg"
    shutil.copy(imageio_ffmpeg.get_ffmpeg_exe(), copy)
    with service(tmp_path, variables={"TIDEMILL_FFMPEG_PATH": str(copy)}) as running:
        assert failing(running) == {}
        copy.unlink()
        assert list(failing(running)) == ["ffmpeg"]


def test_a_store_that_cannot_be_written_fails_readiness_until_it_can(tmp_path: Path) -> None:
    run = tmp_path / "data" / "run"
    with service(tmp_path) as running:
        run.rename(run.with_name("gone"))
        run.write_text("a file where a folder was")
        assert list(failing(running)) == ["store"]
        run.unlink()
        run.with_name("gone").rename(run)
        assert failing(running) == {}
        assert running.stop() == 0


def test_a_data_folder_that_was_replaced_fails_readiness(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert run_command("migrate", folder=other).returncode == 0
    data = tmp_path / "data"
    with service(tmp_path) as running:
        data.rename(tmp_path / "moved")
        (other / "data").rename(data)
        assert "store" in failing(running)
        data.rename(other / "data")
        eventually(lambda: "store" in failing(running), what="a missing folder")
        (tmp_path / "moved").rename(data)
        assert failing(running) == {}


def test_a_worker_without_jobs_of_its_own_is_ready(tmp_path: Path) -> None:
    with service(tmp_path, variables={"TIDEMILL_WORKERS": "0"}) as running:
        assert failing(running) == {}
