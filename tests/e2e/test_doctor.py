"""``tidemill doctor``: what it finds in sound and in broken installations, and that it changes none."""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Server
from tests.fakes.media_bench import scripted_ffmpeg
from tests.runtime_process import COMMAND, clean_environment, eventually, run_command, service

HOUR = 3600
LISTS = 'case "$*" in *-decoders) exec "$FFMPEG" "$@";; esac\n'
GIVEN_UP = 'echo "it is broken" >&2; exit 1'


class Told:
    """The findings of one run, by check."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        assert "Traceback" not in done.stderr, done.stderr
        told = json.loads(done.stdout)
        self.code: int = done.returncode
        self.status: str = told["status"]
        self.findings: list[dict[str, str]] = told["findings"]
        for each in self.findings:
            assert each["what"]
            assert bool(each["todo"]) == (each["level"] != "ok"), each
        order = ["ok", "note", "warning", "failure"]
        assert self.status == max((f["level"] for f in self.findings), key=order.index)
        assert self.code == (1 if self.status == "failure" else 0)

    def of(self, check: str) -> list[dict[str, str]]:
        return [each for each in self.findings if each["check"] == check]

    def gravest(self, check: str) -> dict[str, str]:
        order = ["ok", "note", "warning", "failure"]
        return max(self.of(check), key=lambda each: order.index(each["level"]))

    @property
    def amiss(self) -> set[str]:
        """The checks with warnings and failures."""
        return {f["check"] for f in self.findings if f["level"] in {"warning", "failure"}}


def doctor(folder: Path, *arguments: str, **variables: str) -> Told:
    return Told(run_command("doctor", "--json", *arguments, folder=folder, **variables))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation that has run and was stopped; to be copied."""
    folder = tmp_path_factory.mktemp("stopped")
    with service(folder, variables={"TIDEMILL_WORKERS": "0"}) as running:
        eventually(lambda: len(running.events("sweep.finished")) >= 4, what="the sweeps at start")
        assert running.stop() == 0
    return folder


@pytest.fixture
def installed(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped / "data", tmp_path / "data", symlinks=True)
    return tmp_path


def seen(folder: Path) -> Mapping[str, Any]:
    """Every file as it is, and every folder that there is."""
    return {
        str(path): None if path.is_dir() else (path.read_bytes(), path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def test_a_sound_installation_has_no_trouble_beside_a_service_and_without_one(
    tmp_path: Path,
) -> None:
    empty = doctor(tmp_path)
    assert empty.amiss - {"sandbox"} == set()
    assert "there is none at" in empty.gravest("folder")["what"]
    assert list(tmp_path.iterdir()) == []

    with service(tmp_path, variables={"TIDEMILL_WORKERS": "0"}) as running:
        beside = doctor(tmp_path, TIDEMILL_PORT=str(running.port))
        assert beside.amiss - {"sandbox", "disk"} == set()
        assert {f["check"] for f in beside.findings} == {
            *("settings", "key", "folder", "disk", "database", "clock", "cleanup", "sweeps"),
            *("sandbox", "ffmpeg", "fonts", "service"),
        }
        assert beside.gravest("service")["what"] == f"{running.url} is ready"
        elsewhere = doctor(tmp_path, TIDEMILL_PORT="1")
        assert elsewhere.gravest("service")["level"] == "warning"
        assert "--server" in elsewhere.gravest("service")["todo"]
        assert running.stop() == 0

    before = seen(tmp_path)
    without = doctor(tmp_path)
    assert without.amiss - {"sandbox", "disk"} == set()
    assert without.gravest("service")["level"] == "note"
    assert seen(tmp_path) == before
    assert list((tmp_path / "data" / "run").glob("doctor-*")) == []


def test_people_read_one_line_for_each_finding_with_what_to_do(installed: Path) -> None:
    arguments = ("doctor", "--server", "http://127.0.0.1:1")
    done = run_command(*arguments, folder=installed, TIDEMILL_SANDBOX="off")
    assert (done.returncode, done.stderr) == (1, "")
    *lines, last = done.stdout.splitlines()
    levels = [line.split()[0] for line in lines]
    checks = {line.split()[1] for line in lines}
    assert checks >= {"settings", "key", "folder", "database", "sweeps", "ffmpeg", "service"}
    assert set(levels) <= {"ok", "note", "warning", "failure"}
    assert levels.count("failure") == 1
    assert all(("To do: " in line) == (not line.startswith("ok")) for line in lines)
    assert last.startswith("1 failure, ")


def test_wrong_settings_are_named_one_by_one(tmp_path: Path) -> None:
    told = doctor(tmp_path, TIDEMILL_PORT="x", TIDEMILL_DATA_DIRECTORY="data")
    texts = [each["what"] for each in told.of("settings")]
    assert told.code == 1
    assert len(texts) == 2
    assert any("TIDEMILL_PORT" in text for text in texts)
    assert any("Did you mean TIDEMILL_DATA_DIR?" in text for text in texts)
    together = doctor(tmp_path, TIDEMILL_LEASE_SECONDS="3")
    assert "TIDEMILL_HEARTBEAT_SECONDS" in together.gravest("settings")["what"]
    assert list(tmp_path.iterdir()) == []


def test_many_troubles_are_found_in_one_look(installed: Path) -> None:
    key = installed / "key"
    key.write_text("short")
    key.chmod(0o600)
    make_old(installed, "gc_files", -5 * HOUR)
    told = doctor(
        installed,
        TIDEMILL_HOST="0.0.0.0",
        TIDEMILL_ADMIN_KEY_FILE=str(key),
        TIDEMILL_DISK_RESERVE_BYTES=str(2**60),
        TIDEMILL_FFMPEG_PATH="/no/such/ffmpeg",
        TIDEMILL_SANDBOX="off",
        TIDEMILL_SERVICE_HOST="10.0.0.1",
    )
    assert "at least 20" in told.gravest("key")["what"]
    assert "507" in told.gravest("disk")["what"]
    assert "/no/such/ffmpeg" in told.gravest("ffmpeg")["what"]
    assert {each: told.gravest(each)["level"] for each in ("key", "disk", "ffmpeg", "clock")} == {
        "key": "failure",
        "disk": "failure",
        "ffmpeg": "failure",
        "clock": "warning",
    }
    assert "4 hours in the future" in told.gravest("clock")["what"]
    assert told.gravest("sandbox")["level"] == "note"
    assert "TIDEMILL_SERVICE_HOST" in told.gravest("settings")["what"]


def test_a_key_that_others_can_read_an_ffmpeg_that_cannot_encode_and_a_run_folder_that_is_none(
    installed: Path,
) -> None:
    key, run = installed / "key", installed / "data" / "run"
    key.write_text("k" * 40)
    key.chmod(0o644)
    shutil.rmtree(run)
    run.write_text("a file where a folder was")
    broken = scripted_ffmpeg(installed / "broken", LISTS + GIVEN_UP)
    told = doctor(
        installed,
        TIDEMILL_ADMIN_KEY_FILE=str(key),
        TIDEMILL_FFMPEG_PATH=str(broken),
        TIDEMILL_SANDBOX="off",
    )
    assert told.gravest("key")["level"] == "warning"
    assert f"chmod 600 {key}" in told.gravest("key")["todo"]
    assert told.gravest("folder")["level"] == "failure"
    assert "it is broken" in told.gravest("ffmpeg")["what"]


def test_an_older_database_no_key_and_a_decoder_that_is_missing(installed: Path) -> None:
    path = installed / "data" / "tidemill.db"
    revision(path, "0001")
    no_vp9 = scripted_ffmpeg(
        installed / "no-vp9",
        'case "$*" in *-decoders) "$FFMPEG" "$@" | grep -v vp9; exit;; esac\nexec "$FFMPEG" "$@"',
    )
    told = doctor(
        installed,
        TIDEMILL_HOST="0.0.0.0",
        TIDEMILL_FFMPEG_PATH=str(no_vp9),
        TIDEMILL_SANDBOX="off",
    )
    assert told.gravest("key")["level"] == "failure"
    assert told.gravest("database")["level"] == "warning"
    assert "tidemill migrate" in told.gravest("database")["todo"]
    assert told.gravest("ffmpeg")["level"] == "warning"
    assert "cannot read vp9" in told.gravest("ffmpeg")["what"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)


def test_a_newer_and_a_damaged_database_and_one_that_is_gone(installed: Path) -> None:
    off = {"TIDEMILL_SANDBOX": "off"}
    path = installed / "data" / "tidemill.db"
    sound = path.read_bytes()
    revision(path, "9999")
    newer = doctor(installed, **off).gravest("database")
    assert (newer["level"], "newer Tidemill" in newer["what"]) == ("failure", True)
    path.write_bytes(sound[:4096] + os.urandom(len(sound) - 4096))
    damaged = doctor(installed, **off).gravest("database")
    assert (damaged["level"], "one backup" in damaged["todo"]) == ("failure", True)
    path.write_bytes(b"")
    emptied = doctor(installed, **off).gravest("database")
    assert (emptied["level"], "one backup" in emptied["todo"]) == ("failure", True)
    path.unlink()
    gone = doctor(installed, **off).gravest("database")
    assert (gone["level"], "is gone" in gone["what"]) == ("failure", True)
    assert not path.exists()


def revision(path: Path, number: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", (number,))


def test_folders_that_are_another_s_or_nobody_s(installed: Path, tmp_path: Path) -> None:
    off = {"TIDEMILL_SANDBOX": "off"}
    marker = installed / "data" / "instance.json"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps({**content, "instance": "f" * 32}))
    told = doctor(installed, **off).gravest("database")
    assert (told["level"], "belongs to instance" in told["what"]) == ("failure", True)
    marker.write_text("{")
    assert doctor(installed, **off).gravest("folder")["level"] == "failure"
    other = tmp_path / "other"
    other.mkdir()
    (other / "letters.txt").write_text("mine")
    told = doctor(installed, "--data-dir", str(other), **off).gravest("folder")
    assert (told["level"], "letters.txt" in told["what"]) == ("failure", True)
    assert [path.name for path in other.iterdir()] == ["letters.txt"]


def test_a_machine_that_grants_no_namespaces_degrades_readiness_and_doctor_says_what_to_do(
    installed: Path, make_server: Callable[..., Server]
) -> None:
    kinds = ("user", "net", "mnt", "pid")
    limits = ";".join(f"echo 0 > /proc/sys/user/max_{kind}_namespaces" for kind in kinds)
    bare = ("unshare", "--user", "--map-root-user", "sh", "-c", f'{limits}; exec "$0" "$@"')
    done = subprocess.run(
        [*bare, str(COMMAND), "doctor", "--json"],
        cwd=installed,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = Told(done).gravest("sandbox")
    assert (told["level"], "resource limits alone" in told["what"]) == ("warning", True)
    assert "TIDEMILL_SANDBOX=off" in told["todo"]
    server = make_server({"WORKERS": 0}, wrapper=bare).start()
    with server.client() as api:
        parts = {part["name"]: part for part in api.get("/readyz").json()["parts"]}
    assert parts["sandbox"]["state"] == "degraded"
    assert "install bubblewrap" in parts["sandbox"]["detail"]


def test_late_sweeps_fail_while_a_service_runs_and_are_a_note_while_none_does(
    tmp_path: Path,
) -> None:
    off = {"TIDEMILL_SANDBOX": "off"}
    with service(tmp_path, variables={"TIDEMILL_WORKERS": "0"}) as running:
        eventually(lambda: len(running.events("sweep.finished")) >= 4, what="the sweeps at start")
        off["TIDEMILL_PORT"] = str(running.port)
        make_old(tmp_path, "gc_files", 2 * HOUR)
        # The service has just started: what it found late is not its fault yet.
        assert doctor(tmp_path, **off).gravest("sweeps")["level"] == "ok"
        (lock,) = (tmp_path / "data" / "run").glob("worker-*.lock")
        os.utime(lock, (time.time() - 2.5 * HOUR,) * 2)
        late = doctor(tmp_path, **off)
        assert late.code == 1
        (finding,) = [each for each in late.of("sweeps") if "gc_files" in each["what"]]
        assert finding["level"] == "failure"
        assert finding["what"] == "gc_files is late: its last success was 2 hours ago"
        assert "tidemill sweep gc_files" in finding["todo"]
        assert running.stop() == 0
    told = doctor(tmp_path, **off)
    assert told.gravest("sweeps")["level"] == "note"
    assert "no service runs here" in told.gravest("sweeps")["what"]


def make_old(folder: Path, sweep: str, seconds: int) -> None:
    """Move a sweep's reports into the past."""
    with closing(sqlite3.connect(folder / "data" / "tidemill.db", timeout=20)) as db, db:
        (kind,) = db.execute("SELECT typeof(started_at) FROM sweep_reports").fetchone()
        assert kind == "integer"
        db.execute(
            "UPDATE sweep_reports SET started_at = started_at - ? WHERE sweep = ?",
            (seconds * 1_000_000, sweep),
        )
