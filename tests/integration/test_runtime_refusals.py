"""What the command refuses: each in one clear sentence, with its exit code, and nothing touched."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.runtime_process import clean_environment, run_command, service

OPEN_TO_ALL = {"TIDEMILL_HOST": "0.0.0.0", "TIDEMILL_PORT": "0"}


def tree(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


def refusal(done: "subprocess.CompletedProcess[str]", *, code: int = 1) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_wrong_settings_exit_with_2_and_name_every_problem(tmp_path: Path) -> None:
    variables = {"TIDEMILL_PROT": "9", "TIDEMILL_WORKERS": "many", "TTL_FAILED_HOURS": "-1"}
    for command in (["serve"], ["sweep", "gc_files"]):
        said = refusal(run_command(*command, folder=tmp_path, **variables), code=2)
        assert "TIDEMILL_PROT is not a setting. Did you mean TIDEMILL_PORT?" in said
        assert "TIDEMILL_WORKERS is 'many'" in said
        assert "TTL_FAILED_HOURS is '-1'" in said
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"TIDEMILL_HOST": "0.0.0.0"}, "TIDEMILL_HOST is 0.0.0.0"),
        ({"TIDEMILL_PUBLIC_URL": "https://v.example"}, "TIDEMILL_PUBLIC_URL is https://v.example"),
        ({"TIDEMILL_TRUSTED_PROXIES": "10.0.0.0/8"}, "TIDEMILL_TRUSTED_PROXIES is 10.0.0.0/8"),
    ],
)
def test_without_a_key_it_does_not_open_to_others_and_says_how_to_make_one(
    tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    said = refusal(run_command("serve", folder=tmp_path, TIDEMILL_PORT="0", **variables))
    assert reason in said
    recipe = "umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > key"
    assert recipe in said
    assert tree(tmp_path) == []


def test_the_recipe_for_a_key_makes_one_that_works(tmp_path: Path) -> None:
    recipe = "umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > key"
    subprocess.run(["/bin/sh", "-c", recipe], cwd=tmp_path, check=True, timeout=20)
    key = (tmp_path / "key").read_text().strip()
    with service(tmp_path, variables={"TIDEMILL_ADMIN_KEY_FILE": "key"}) as running:
        listing = "/api/v1/batches"
        assert running.get(listing).status_code == 401
        assert running.get(listing, headers={"Authorization": "Bearer wrong"}).status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert running.get(listing, headers=headers).status_code == 200
        assert running.get("/readyz").json()["parts"] == []
        parts = running.get("/readyz", headers=headers).json()["parts"]
        assert {"database", "store", "engine", "ffmpeg"} <= {part["name"] for part in parts}
        assert running.get("/livez").status_code == 200
        assert key not in running.log_text()
        assert "key_file.readable_by_others" not in running.log_text()


def test_a_key_file_that_protects_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short")
    done = run_command("serve", folder=tmp_path, TIDEMILL_ADMIN_KEY_FILE="key", TIDEMILL_PORT="0")
    said = refusal(done)
    assert "TIDEMILL_ADMIN_KEY_FILE=key" in said
    assert "at least 20 characters" in said
    assert not (tmp_path / "data").exists()


def test_it_does_not_serve_on_postgres_and_says_that_it_will(tmp_path: Path) -> None:
    url = "postgresql://tide:hunter2@127.0.0.1:1/tide"
    for command in (["serve"], ["storage"]):
        done = run_command(*command, folder=tmp_path, DATABASE_URL=url, TIDEMILL_PORT="0")
        said = refusal(done)
        assert "PostgreSQL" in said
        assert "cluster" in said
        assert "hunter2" not in said
    assert tree(tmp_path) == []


def test_a_folder_with_other_peoples_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "data"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    for command in (["serve"], ["migrate"], ["storage"]):
        done = run_command(*command, folder=tmp_path, TIDEMILL_PORT="0")
        said = refusal(done)
        assert str(foreign) in said
    assert tree(foreign) == ["thesis.txt"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which `tidemill migrate` has made a data folder with one upload's bytes."""
    done = run_command("migrate", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "data" / "uploads" / ("0" * 32)).write_bytes(b"bytes")
    return tmp_path


def test_files_beside_a_fresh_database_are_refused(installed: Path) -> None:
    (installed / "data" / "tidemill.db").unlink()
    said = refusal(run_command("serve", folder=installed, TIDEMILL_PORT="0"))
    assert "restore" in said
    assert not (installed / "data" / "tidemill.db").exists()


def test_a_database_of_another_instance_is_refused(installed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert run_command("migrate", folder=other).returncode == 0
    (other / "data" / "tidemill.db").replace(installed / "data" / "tidemill.db")
    for command in (["serve"], ["storage"]):
        said = refusal(run_command(*command, folder=installed, TIDEMILL_PORT="0"))
        assert "belong" in said


def test_a_database_of_a_newer_version_is_refused_and_unchanged(installed: Path) -> None:
    with sqlite3.connect(installed / "data" / "tidemill.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for command in (["serve"], ["migrate"]):
        said = refusal(run_command(*command, folder=installed, TIDEMILL_PORT="0"))
        assert "9999" in said
        assert "newer" in said
    said = refusal(run_command("storage", folder=installed))
    assert "9999" in said


def test_a_file_that_is_no_database_is_a_clear_failure(installed: Path) -> None:
    (installed / "data" / "tidemill.db").write_bytes(b"not a database at all" * 100)
    refusal(run_command("serve", folder=installed, TIDEMILL_PORT="0"))


def test_a_sandbox_that_must_be_and_cannot_is_refused(tmp_path: Path) -> None:
    script = """
import app.infrastructure.media.sandbox as sandbox
sandbox.works = lambda _: False
from app.server import serve
from app.settings import Settings
import sys
sys.exit(serve(Settings.load()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean_environment(TIDEMILL_PORT="0", TIDEMILL_SANDBOX="require"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = refusal(done)
    assert "TIDEMILL_SANDBOX=require" in said


def test_the_command_wants_an_installation_and_makes_none(tmp_path: Path) -> None:
    for command in (["storage"], ["sweep", "gc_files"]):
        said = refusal(run_command(*command, "--data-dir", "nowhere", folder=tmp_path))
        assert "There is no Tidemill data folder at" in said
    assert tree(tmp_path) == []


@pytest.fixture
def other_hosts_url(tmp_path: Path) -> Iterator[str]:
    with service(tmp_path) as running:
        yield running.url


def test_in_the_open_mode_other_names_and_other_pages_are_turned_away(other_hosts_url: str) -> None:
    address = f"{other_hosts_url}/api/v1/batches"
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 421
    assert httpx.get(address, headers={"Origin": "https://evil.example"}).status_code == 403
    assert httpx.get(address, headers={"Origin": "http://localhost:5173"}).status_code == 200
