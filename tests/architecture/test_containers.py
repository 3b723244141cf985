"""The container files: every path, name, number and setting in them is one that exists, and they agree.

No engine runs here; docs/running.md says what was tried by hand instead, and what was not.
"""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.infrastructure.key_file import read_key
from app.server.http_server import AFTER_DRAIN_SECONDS, EXIT_SECONDS
from app.settings import Settings, variables
from tests.architecture.dockerfile import Ignored, Stage, parse

ROOT = Path(__file__).resolve().parents[2]
STAGES = parse((ROOT / "Dockerfile").read_text())
IGNORED = Ignored((ROOT / ".dockerignore").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["tidemill"]
RUNNING = (ROOT / "docs" / "running.md").read_text()
README = (ROOT / "README.md").read_text()

# What of the Compose format we use, and of which shape: a misspelt key is a silent one.
SERVICE_KEYS: dict[str, type] = {
    "build": str,
    "cap_drop": list,
    "env_file": list,
    "environment": dict,
    "healthcheck": dict,
    "image": str,
    "init": bool,
    "logging": dict,
    "pids_limit": int,
    "ports": list,
    "read_only": bool,
    "restart": str,
    "secrets": list,
    "security_opt": list,
    "stop_grace_period": str,
    "volumes": list,
}


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)(s|m)", text)
    assert found, text
    return int(found[1]) * (60 if found[2] == "m" else 1)


@pytest.fixture
def build() -> Stage:
    return STAGES[0]


@pytest.fixture
def final() -> Stage:
    return STAGES[-1]


# --- the Dockerfile -------------------------------------------------------------------------------


def test_both_stages_stand_on_the_same_slim_python_of_no_registry_of_ours() -> None:
    assert [stage.name for stage in STAGES] == ["build", "run"]
    (base,) = {stage.base for stage in STAGES}
    name, _, tag = base.partition(":")
    assert name == "python"
    assert tag == "3.11-slim-bookworm"


def test_everything_the_build_copies_is_in_the_repository_and_reaches_the_engine(
    build: Stage,
) -> None:
    sources = [source for copy in build.copies for source in copy.sources]
    assert sources
    for source in sources:
        path = ROOT / source
        assert path.exists(), source
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        kept = [p for p in files if "__pycache__" not in p.parts]
        assert kept
        for file in kept:
            assert not IGNORED.covers(file.relative_to(ROOT)), file


def test_what_the_package_is_built_from_is_copied(build: Stage) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    copied = {source for copy in build.copies for source in copy.sources}
    assert wanted <= copied
    assert project["project"]["scripts"]["tidemill"]


@pytest.mark.parametrize(
    "private",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "app/__pycache__/main.cpython-311.pyc",
        "data/tidemill.db",
        "requirements/dev.txt",
        "secrets/admin_key",
        "tests/conftest.py",
    ],
)
def test_what_is_private_or_large_never_reaches_the_engine(private: str) -> None:
    assert IGNORED.covers(Path(private))


def test_every_package_is_installed_by_its_hash_and_nothing_else_is(build: Stage) -> None:
    installs = [
        command.strip()
        for text in build.all("RUN")
        for command in text.split("&&")
        if " pip install " in command
    ]
    packages, project = installs
    assert "--require-hashes" in packages
    assert packages.endswith("--requirement requirements/run.txt")
    assert project.endswith("--no-deps --no-build-isolation .")
    locked = (ROOT / "requirements" / "run.txt").read_text().replace("\\\n", " ").splitlines()
    for line in locked:
        if line and not line.lstrip().startswith("#"):
            assert "--hash=sha256:" in line, line


def test_the_image_takes_only_the_environment_from_the_build(build: Stage, final: Stage) -> None:
    (copy,) = final.copies
    assert copy.stage == build.name
    assert copy.sources == (copy.target,) == ("/opt/tidemill",)
    assert f"python -m venv {copy.target}" in build.all("RUN")
    path = final.environment["PATH"].split(":")
    assert path[0] == f"{copy.target}/bin"


def test_it_runs_as_a_fixed_user_who_is_not_root_and_owns_only_the_data(final: Stage) -> None:
    user, group = final.last("USER").split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    (making,) = [text for text in final.all("RUN") if "useradd" in text]
    assert f"groupadd --gid {group} " in making
    assert f"useradd --uid {user} --gid {group} " in making
    assert f"install --directory --owner={user} --group={group} --mode=0700 /data" in making
    instructions = [each.name for each in final.instructions]
    assert "RUN" not in instructions[instructions.index("USER") :]
    assert instructions.index("VOLUME") > instructions.index("RUN")
    assert f"chown {user}:{group}" in RUNNING
    assert f"uid {user}" in RUNNING


def test_the_image_brings_what_text_and_the_sandbox_need(final: Stage) -> None:
    (installing,) = [text for text in final.all("RUN") if "apt-get install" in text]
    assert {"libfribidi0", "bubblewrap"} <= set(installing.split())
    assert "--no-install-recommends" in installing
    assert "rm -rf /var/lib/apt/lists/*" in installing
    locked = (ROOT / "requirements" / "run.txt").read_text()
    assert re.search(r"^imageio-ffmpeg==", locked, re.MULTILINE), "FFmpeg comes with the packages"


def test_nothing_is_meant_to_be_written_outside_of_the_volume(final: Stage) -> None:
    environment = final.environment
    assert json.loads(f'["{final.last("VOLUME")}"]') == [environment["TIDEMILL_DATA_DIR"]]
    assert environment["HOME"] == environment["TMPDIR"] == "/nonexistent"
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_image_starts_the_service_and_is_told_to_stop_by_sigterm(final: Stage) -> None:
    assert [*final.argv("ENTRYPOINT"), *final.argv("CMD")] == ["tidemill", "serve"]
    assert final.last("STOPSIGNAL") == "SIGTERM"
    assert final.last("EXPOSE") == final.environment["TIDEMILL_PORT"]
    assert all(not value.startswith("http") for value in final.labels.values())


# --- the health check -----------------------------------------------------------------------------


class _Answering(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        assert self.path == "/livez"
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def answering() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def check_health(final: Stage, port: int) -> int:
    """Run the image's health check with this interpreter, against another port."""
    _, command = final.health_check
    assert command[0] == "/opt/tidemill/bin/python"
    assert command[-1].count("8000") == 1
    argv = [sys.executable, *command[1:-1], command[-1].replace("8000", str(port))]
    done = subprocess.run(argv, env={}, check=False, timeout=20, capture_output=True)
    return done.returncode


def test_the_health_check_tells_a_live_service_from_a_dead_one(
    final: Stage, answering: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = answering.server_port
    assert check_health(final, port) == 0
    monkeypatch.setattr(_Answering, "status", 503)
    assert check_health(final, port) == 1
    with http.server.HTTPServer(("127.0.0.1", 0), _Answering) as deaf:
        assert check_health(final, deaf.server_port) == 1, "it listens, but never answers"
        gone = deaf.server_port
    assert check_health(final, gone) == 1


def test_compose_and_image_check_the_same_thing(final: Stage) -> None:
    options, command = final.health_check
    found = SERVICE["healthcheck"]
    assert found["test"] == ["CMD", *command]
    assert f"'127.0.0.1', {final.last('EXPOSE')}," in command[-1]
    named = {name.replace("-", "_"): value for name, value in options.items()}
    assert {name: str(found[name]) for name in found if name != "test"} == named
    limit = re.search(r"timeout=(\d+)", command[-1])
    assert limit
    assert int(limit[1]) < seconds(options["timeout"])


# --- docker-compose.yml ---------------------------------------------------------------------------


def test_compose_has_one_service_one_volume_and_one_secret_and_no_unknown_key() -> None:
    assert set(COMPOSE) == {"name", "services", "volumes", "secrets"}
    assert list(COMPOSE["services"]) == ["tidemill"]
    assert {name: type(value) for name, value in SERVICE.items()} == SERVICE_KEYS
    assert (ROOT / SERVICE["build"] / "Dockerfile").is_file()


def test_it_is_published_on_loopback_only_at_the_port_of_the_image(final: Stage) -> None:
    (published,) = SERVICE["ports"]
    address, outside, inside = published.split(":")
    assert address == "127.0.0.1"
    assert outside == inside == final.last("EXPOSE") == SERVICE["environment"]["TIDEMILL_PORT"]
    assert f"http://127.0.0.1:{outside}" in RUNNING


def test_the_container_may_do_nothing_that_it_need_not(final: Stage) -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert SERVICE["init"] is True
    assert SERVICE["restart"] == "unless-stopped"
    assert "user" not in SERVICE, "the image's user owns the volume"
    assert final.last("USER") != "0:0"


def test_the_volume_is_the_data_folder(final: Stage) -> None:
    (mounted,) = SERVICE["volumes"]
    name, target = mounted.split(":")
    assert list(COMPOSE["volumes"]) == [name]
    assert target == final.last("VOLUME") == SERVICE["environment"]["TIDEMILL_DATA_DIR"]


def test_the_key_file_is_a_secret_that_git_and_the_engine_never_see() -> None:
    (name,) = SERVICE["secrets"]
    assert SERVICE["environment"]["TIDEMILL_ADMIN_KEY_FILE"] == f"/run/secrets/{name}"
    file = Path(COMPOSE["secrets"][name]["file"])
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert f"/{file.parent}/" in ignored
    assert IGNORED.covers(file)
    for text in (RUNNING, (ROOT / "docker-compose.yml").read_text()):
        assert f"> {file} && chmod 644 {file}" in text


def test_the_recipe_for_the_key_makes_one_that_is_taken(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    (recipe,) = re.findall(r"^# +(install -d .*)$", text, re.MULTILINE)
    assert recipe in RUNNING
    file = tmp_path / COMPOSE["secrets"]["admin_key"]["file"]
    for mask in ("022", "077"):
        line = f"umask {mask}; {recipe}"
        subprocess.run(["/bin/sh", "-ec", line], cwd=tmp_path, check=True, timeout=20)
        assert len(read_key(file)) > 40
        assert file.stat().st_mode & 0o777 == 0o644, "the container's user is another one"
        assert file.parent.stat().st_mode & 0o777 == 0o700, "nobody else of the host reads it"


def test_the_settings_of_both_files_make_a_configuration_that_wants_a_key(final: Stage) -> None:
    own = {name: v for name, v in final.environment.items() if name.startswith("TIDEMILL_")}
    for environment in (own, own | SERVICE["environment"]):
        settings = Settings.load(environment)
        assert not settings.is_open
        assert settings.service.log_format == "json"
    assert SERVICE["env_file"] == [{"path": ".env", "required": False}]
    # .env may say anything of these; what the container's own files rely on must win.
    assert {"TIDEMILL_HOST", "TIDEMILL_PORT", "TIDEMILL_DATA_DIR"} <= set(SERVICE["environment"])


def test_the_grace_of_a_stop_is_longer_than_a_stop_can_take() -> None:
    after = AFTER_DRAIN_SECONDS + EXIT_SECONDS
    longest = Settings().service.drain_seconds + after
    assert seconds(SERVICE["stop_grace_period"]) > longest
    assert f"`TIDEMILL_DRAIN_SECONDS` and {after:g} s" in RUNNING
    assert f"and {after:g} s more" in (ROOT / "docker-compose.yml").read_text()
    unit = re.search(r"^TimeoutStopSec=(\d+)$", RUNNING, re.MULTILINE)
    assert unit
    assert int(unit[1]) > longest


def test_the_log_of_the_container_does_not_fill_the_disk() -> None:
    options = SERVICE["logging"]["options"]
    assert SERVICE["logging"]["driver"] == "json-file"
    assert set(options) == {"max-size", "max-file"}
    assert all(isinstance(value, str) for value in options.values())


# --- what the pages name --------------------------------------------------------------------------

NAMED = ["Dockerfile", "docker-compose.yml", ".env.example", "README.md", "docs/running.md"]


@pytest.mark.parametrize("file", NAMED)
def test_every_setting_that_is_named_exists(file: str) -> None:
    known = {name for each in variables() for name in each.names}
    named = set(re.findall(r"\bTIDEMILL_[A-Z0-9_]+\b", (ROOT / file).read_text()))
    assert named, file
    assert named <= known


def test_every_command_on_the_page_is_one_that_there_is() -> None:
    called = r"(?<!/opt/)\btidemill (?!tidemill\b)([a-z]+)\b(?: --| [A-Za-z]|`|$)"
    named = set(re.findall(called, RUNNING, re.MULTILINE))
    done = subprocess.run(
        [Path(sys.executable).with_name("tidemill"), "--help"],
        env={"PATH": os.environ["PATH"], "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    commands = set(re.findall(r"^ +([a-z]+) {2,}", done.stdout, re.MULTILINE))
    assert {"serve", "storage", "migrate", "config"} <= named
    assert named <= commands
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)`", RUNNING + README)) <= targets


def test_every_page_that_is_linked_exists() -> None:
    for page, text in (("README.md", README), ("docs/running.md", RUNNING)):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page} -> {target}"
