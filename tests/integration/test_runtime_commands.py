"""The commands beside a running service and without one: sweep, storage, config, migrate."""

import json
import sqlite3
import subprocess
from pathlib import Path

import httpx

from tests.runtime_process import COMMAND, clean_environment, eventually, run_command, service

TUS = {"Tus-Resumable": "1.0.0"}


def test_help_teaches_with_examples(tmp_path: Path) -> None:
    said = run_command("--help", folder=tmp_path).stdout
    for name in ("serve", "upload", "sweep", "storage", "config", "migrate"):
        assert name in said
    for name in ("serve", "sweep", "storage", "config", "migrate"):
        done = run_command(name, "--help", folder=tmp_path)
        assert done.returncode == 0
        assert f"  tidemill {name}" in done.stdout
        assert "Exit codes: " in done.stdout
    assert run_command("nonsense", folder=tmp_path).returncode == 2
    assert run_command("sweep", "nonsense", folder=tmp_path).returncode == 2
    assert run_command("--version", folder=tmp_path).stdout.startswith("tidemill ")


def test_config_prints_what_is_in_force_and_where_it_came_from(tmp_path: Path) -> None:
    variables = {
        "TIDEMILL_PORT": "9000",
        "TTL_FAILED_HOURS": "2",
        "DATABASE_URL": "postgresql://u:hunter2@h/d",
        "TIDEMILL_SERVICE_HOST": "10.0.0.1",
    }
    done = run_command("config", folder=tmp_path, **variables)
    assert done.returncode == 0
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert lines["TIDEMILL_PORT"] == ["9000", "environment"]
    assert lines["TIDEMILL_TTL_FAILED_HOURS"] == ["2", "environment", "as", "TTL_FAILED_HOURS"]
    assert lines["TIDEMILL_HOST"] == ["127.0.0.1", "default"]
    assert "hunter2" not in done.stdout + done.stderr
    assert "TIDEMILL_SERVICE_HOST" in done.stderr

    as_json = json.loads(run_command("config", "--json", folder=tmp_path, **variables).stdout)
    by_name = {each["variable"]: each for each in as_json}
    assert by_name["TIDEMILL_PORT"]["value"] == 9000
    assert by_name["TIDEMILL_CORS_ORIGINS"]["value"] == ["loopback"]
    assert by_name["TIDEMILL_MAX_UPLOAD_BYTES"]["value"] == 20 * 2**30
    assert "hunter2" not in json.dumps(as_json)


def test_config_lists_every_setting_even_when_some_are_wrong(tmp_path: Path) -> None:
    done = run_command("config", "--list", folder=tmp_path, TIDEMILL_PORT="x")
    assert done.returncode == 0
    assert "TIDEMILL_MEDIA_MAX_STREAMS" in done.stdout


def test_migrate_makes_the_database_once(tmp_path: Path) -> None:
    first = run_command("migrate", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "from revision none to" in first.stdout
    second = run_command("migrate", folder=tmp_path)
    assert second.returncode == 0
    assert "nothing to do" in second.stdout


def test_processes_that_migrate_at_once_agree(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [str(COMMAND), "migrate"],
            cwd=tmp_path,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    marker = json.loads((tmp_path / "data" / "instance.json").read_text())
    connection = sqlite3.connect(tmp_path / "data" / "tidemill.db")
    try:
        assert connection.execute("SELECT id FROM instance").fetchall() == [(marker["instance"],)]
        assert len(connection.execute("SELECT * FROM alembic_version").fetchall()) == 1
    finally:
        connection.close()


def test_two_services_start_on_one_folder_at_once(tmp_path: Path) -> None:
    with (
        service(tmp_path, wait=False) as one,
        service(tmp_path, wait=False) as two,
    ):
        one.wait_until_started()
        two.wait_until_started()
        made = httpx.post(
            f"{one.url}/files/", headers={**TUS, "Upload-Length": "3"}, timeout=10
        ).headers["location"]
        assert httpx.head(two.url + made, headers=TUS, timeout=10).status_code == 200
        assert one.stop() == 0
        assert httpx.head(two.url + made, headers=TUS, timeout=10).status_code == 200
        assert two.stop() == 0


def test_sweep_and_storage_work_beside_a_running_service(tmp_path: Path) -> None:
    variables = {"TIDEMILL_UPLOAD_EXPIRES_HOURS": "0"}
    with service(tmp_path, variables=variables) as running:
        eventually(lambda: len(running.events("sweep.finished")) >= 4, what="the sweeps at start")
        headers = {
            **TUS,
            "Upload-Length": "100000",
            "Content-Type": "application/offset+octet-stream",
        }
        made = httpx.post(f"{running.url}/files/", headers=headers, content=b"x" * 999, timeout=10)
        upload_id = made.headers["location"].rsplit("/", 1)[1]

        told = json.loads(run_command("storage", "--json", folder=tmp_path).stdout)
        kinds = {kind["kind"]: kind for kind in told["kinds"]}
        assert kinds["uploads"]["size_bytes"] == 999
        assert {row["state"]: row["count"] for row in kinds["uploads"]["rows"]} == {
            "receiving": 1,
            "completed": 0,
        }
        assert "999 B" in run_command("storage", folder=tmp_path).stdout

        dry = run_command("sweep", "gc_files", "--dry-run", folder=tmp_path, **variables)
        assert dry.returncode == 0, dry.stderr
        assert upload_id in dry.stdout
        assert "would remove 1 of 1" in dry.stdout
        assert (tmp_path / "data" / "uploads" / upload_id).exists()

        wet = run_command("sweep", "gc_files", "--json", folder=tmp_path, **variables)
        report = json.loads(wet.stdout)
        assert (report["removed"], report["bytes_freed"]) == (1, 999)
        assert [victim["id"] for victim in report["victims"]] == [upload_id]
        assert not (tmp_path / "data" / "uploads" / upload_id).exists()
        reports = running.get("/api/v1/sweeps").json()["items"]
        manual = [each for each in reports if each["trigger"] == "manual"]
        assert [each["removed"] for each in manual] == [1]
        assert httpx.head(running.url + made.headers["location"], headers=TUS).status_code == 410
        assert running.stop() == 0
    assert run_command("sweep", "gc_files", folder=tmp_path).returncode == 0
