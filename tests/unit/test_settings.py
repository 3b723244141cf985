"""The settings: what is read, what is refused, and what a refusal says."""

import os
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings, SettingsError, variables

# One value other than the default for every setting, and what it is read as.
OTHER_VALUES: dict[str, tuple[str, Any]] = {
    "HOST": ("::1", "::1"),
    "PORT": ("0", 0),
    "PROCESSES": ("4", 4),
    "ROOT_PATH": ("/tide/", "/tide"),
    "PUBLIC_URL": ("https://Video.example.org/", "https://video.example.org"),
    "TRUSTED_PROXIES": ("10.0.0.5, 172.16.0.0/12", ("10.0.0.5", "172.16.0.0/12")),
    "CORS_ORIGINS": ("https://a.example, loopback", ("https://a.example", "loopback")),
    "DRAIN_SECONDS": ("2.5", 2.5),
    "LOG_FORMAT": ("JSON", "json"),
    "LOG_LEVEL": ("debug", "debug"),
    "DATA_DIR": ("/srv/tide", Path("/srv/tide")),
    "DATABASE_URL": ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    "FSYNC": ("patch", "patch"),
    "MAX_UPLOAD_BYTES": ("512MB", 512_000_000),
    "MULTIPART_MAX_BYTES": ("1MiB", 2**20),
    "LOG_MAX_BYTES": ("3MiB", 3 * 2**20),
    "METADATA_MAX_BYTES": ("4KiB", 4096),
    "UPLOAD_EXPIRES_HOURS": ("0", 0.0),
    "UPLOAD_READ_TIMEOUT_SECONDS": ("1.5", 1.5),
    "LOCK_WAIT_SECONDS": ("0", 0.0),
    "SESSION_MAX_AGE_HOURS": ("0.001", 0.001),
    "BATCH_TTL_HOURS": ("48", 48.0),
    "KEEP_INPUTS_HOURS": ("0", 0.0),
    "WORKERS": ("0", 0),
    "QUEUE_LIMIT": ("7", 7),
    "JOB_TIMEOUT_SECONDS": ("30", 30.0),
    "JOB_TIMEOUT_MAX_SECONDS": ("900", 900.0),
    "SYNC_TIMEOUT_SECONDS": ("45", 45.0),
    "STALL_SECONDS": ("5", 5.0),
    "HEARTBEAT_SECONDS": ("0.5", 0.5),
    "LEASE_SECONDS": ("20", 20.0),
    "MAX_ATTEMPTS": ("1", 1),
    "QUEUED_TTL_HOURS": ("1", 1.0),
    "TTL_MAX_HOURS": ("48", 48.0),
    "DELIVERY_GRACE_SECONDS": ("5", 5.0),
    "KEPT_CLIPS_HOURS": ("0", 0.0),
    "KEPT_CLIPS_MAX_BYTES": ("1GiB", 2**30),
    "TOMBSTONE_DAYS": ("2", 2.0),
    "TTL_COMPLETED_HOURS": ("0", 0.0),
    "TTL_FAILED_HOURS": ("2", 2.0),
    "UPLOAD_GC_INTERVAL_SECONDS": ("1", 1.0),
    "UNCLAIMED_INTERVAL_SECONDS": ("1", 1.0),
    "DELIVERED_INTERVAL_SECONDS": ("1", 1.0),
    "KEPT_CLIPS_INTERVAL_SECONDS": ("1", 1.0),
    "RECORDS_INTERVAL_SECONDS": ("1", 1.0),
    "SESSION_SWEEP_INTERVAL_SECONDS": ("1", 1.0),
    "JOB_CHECK_INTERVAL_SECONDS": ("1", 1.0),
    "CLEANUP_INTERVAL_SECONDS": ("1", 1.0),
    "SPENT_INPUTS_INTERVAL_SECONDS": ("0.2", 0.2),
    "DISK_RESERVE_BYTES": ("1048576", 2**20),
    "FFMPEG_PATH": ("/opt/ffmpeg", Path("/opt/ffmpeg")),
    "SANDBOX": ("require", "require"),
    "MEDIA_MAX_SECONDS": ("60", 60.0),
    "MEDIA_MAX_PIXELS": ("921600", 921_600),
    "MEDIA_MAX_STREAMS": ("2", 2),
    "CONCAT_MAX_CLIPS": ("5", 5),
    "MEDIA_MAX_FRAME_RATE": ("60", 60.0),
    "MEDIA_MAX_GIGAPIXELS": ("1.5", 1.5),
    "MEDIA_MAX_OUTPUT_BYTES": ("1048576", 2**20),
    "ADMIN_KEY_FILE": ("/run/secrets/key", Path("/run/secrets/key")),
}


def problems_of(**environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    return caught.value.problems


def test_the_table_of_other_values_covers_every_setting() -> None:
    assert set(OTHER_VALUES) == {each.bare for each in variables()}


@pytest.mark.parametrize("variable", variables(), ids=lambda each: each.bare)
def test_every_setting_is_read_from_its_variable(variable: Any) -> None:
    text, value = OTHER_VALUES[variable.bare]

    settings = Settings.load({variable.name: text})

    assert getattr(getattr(settings, variable.group), variable.field) == value
    assert getattr(getattr(Settings(), variable.group), variable.field) != value
    origins = {each.variable.name: each.origin for each in settings.effective()}
    assert origins.pop(variable.name) == "environment"
    assert set(origins.values()) == {"default"}


def test_the_defaults_are_those_of_the_product_page() -> None:
    shown = {each.bare: each.default for each in variables()}

    assert shown["HOST"] == "127.0.0.1"
    assert shown["PORT"] == "8000"
    assert shown["MAX_UPLOAD_BYTES"] == "20GiB"
    assert shown["METADATA_MAX_BYTES"] == "8KiB"
    assert shown["DISK_RESERVE_BYTES"] == "1GiB"
    assert shown["JOB_TIMEOUT_SECONDS"] == "600"
    assert shown["JOB_TIMEOUT_MAX_SECONDS"] == "7200"
    assert shown["UPLOAD_GC_INTERVAL_SECONDS"] == "600"
    assert shown["TTL_COMPLETED_HOURS"] == "24"
    assert shown["TTL_FAILED_HOURS"] == "1"
    assert shown["MEDIA_MAX_PIXELS"] == "16777216"
    assert Settings().jobs.workers == max(1, len(os.sched_getaffinity(0)) // 2)


def test_settings_cannot_be_changed() -> None:
    settings = Settings.load({})
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings.service, "port", 1)  # noqa: B010 - the type already forbids it
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "service", Settings().service)  # noqa: B010


def test_settings_made_in_code_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_PORT", "9")
    monkeypatch.setenv("PORT", "9")
    monkeypatch.setenv("DATA", "{}")
    monkeypatch.setenv("DATA_DIR", "elsewhere")

    assert Settings() == Settings.load({})


def test_load_reads_the_process_and_a_file_below_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("TIDEMILL_PORT=1\nTIDEMILL_WORKERS=3\nOTHER_THING=${x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEMILL_PORT", "2")

    settings = Settings.load(options={"TIDEMILL_HOST": "localhost"})

    assert (settings.service.port, settings.jobs.workers) == (2, 3)
    origins = {each.variable.bare: each.origin for each in settings.effective()}
    assert (origins["PORT"], origins["WORKERS"]) == ("environment", ".env")
    assert origins["HOST"] == "option"


def test_an_unknown_variable_of_the_file_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("TIDEMILL_PROT=1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="TIDEMILL_PROT is not a setting"):
        Settings.load()


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    assert problems_of(TIDEMILL_PROT="9") == (
        "TIDEMILL_PROT is not a setting. Did you mean TIDEMILL_PORT?",
    )


def test_a_variable_in_the_wrong_case_is_refused() -> None:
    assert problems_of(tidemill_port="9") == (
        "tidemill_port is not a setting. Did you mean TIDEMILL_PORT?",
    )


@pytest.mark.parametrize("name", ["ORPHANS", "METRICS_HOST", "NONSENSE"])
def test_a_setting_whose_feature_is_not_there_yet_is_refused(name: str) -> None:
    assert problems_of(**{f"TIDEMILL_{name}": "1"})[0].startswith(
        f"TIDEMILL_{name} is not a setting."
    )


def test_an_invalid_value_names_the_variable_the_value_and_what_is_allowed() -> None:
    assert problems_of(TIDEMILL_LOG_LEVEL="chatty") == (
        "TIDEMILL_LOG_LEVEL is 'chatty'; allowed is debug, info, warning or error.",
    )
    (problem,) = problems_of(TIDEMILL_MAX_UPLOAD_BYTES="20 apples")
    assert problem == (
        "TIDEMILL_MAX_UPLOAD_BYTES is '20 apples' (not a size); "
        "allowed is a size over 0 such as 20GiB, 512MB or plain bytes."
    )


def test_all_problems_are_named_at_once() -> None:
    problems = problems_of(
        TIDEMILL_PORT="x", TIDEMILL_WORKERS="-1", TIDEMILL_FSYNC="maybe", TIDEMILL_TYPO="1"
    )
    assert [problem.split()[0] for problem in problems] == [
        "TIDEMILL_TYPO",
        "TIDEMILL_PORT",
        "TIDEMILL_FSYNC",
        "TIDEMILL_WORKERS",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "8000.0"),
        ("PORT", "1_000"),
        ("PORT", ""),
        ("HOST", ""),
        ("HOST", "a b"),
        ("ROOT_PATH", "tide"),
        ("ROOT_PATH", "/a//b"),
        ("PUBLIC_URL", "video.example.org"),
        ("PUBLIC_URL", "https://user:pw@video.example.org"),
        ("PUBLIC_URL", "https://video.example.org?x=1"),
        ("PUBLIC_URL", "https://video.example.org:99999"),
        ("TRUSTED_PROXIES", "proxy.internal"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "*"),
        ("CORS_ORIGINS", "app.example.org"),
        ("CORS_ORIGINS", "https://app.example.org/path"),
        ("DATA_DIR", ""),
        ("DATABASE_URL", "mysql://u:p@h/d"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("MAX_UPLOAD_BYTES", "1e9"),
        ("MAX_UPLOAD_BYTES", "-1"),
        ("METADATA_MAX_BYTES", "1MiB"),
        ("UPLOAD_EXPIRES_HOURS", "-1"),
        ("UPLOAD_EXPIRES_HOURS", "nan"),
        ("UPLOAD_EXPIRES_HOURS", "inf"),
        ("UPLOAD_EXPIRES_HOURS", "1e999"),
        ("UPLOAD_EXPIRES_HOURS", "1e9"),
        ("UPLOAD_EXPIRES_HOURS", "24h"),
        ("CLEANUP_INTERVAL_SECONDS", "0"),
        ("JOB_TIMEOUT_SECONDS", "0"),
        ("HEARTBEAT_SECONDS", "0"),
        ("MAX_ATTEMPTS", "0"),
        ("QUEUE_LIMIT", "0"),
        ("SANDBOX", "yes"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(name: str, value: str) -> None:
    (problem,) = problems_of(**{f"TIDEMILL_{name}": value})
    assert problem.startswith(f"TIDEMILL_{name} is ")
    assert "; allowed is " in problem


@pytest.mark.parametrize("interval", [e for e in variables() if e.group == "intervals"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_an_interval_must_be_a_time_that_passes(interval: Any, value: str) -> None:
    assert problems_of(**{interval.name: value})[0].startswith(f"{interval.name} is ")


def test_bare_names_are_read_and_said_to_be_the_origin() -> None:
    settings = Settings.load(
        {
            "DATABASE_URL": "sqlite:////srv/t.db",
            "JOB_TIMEOUT_SECONDS": "11",
            "TTL_COMPLETED_HOURS": "12",
            "TTL_FAILED_HOURS": "13",
            "CLEANUP_INTERVAL_SECONDS": "14",
            "PORT": "1",
            "HOST": "ignored.example",
        }
    )
    assert settings.data.database_url == "sqlite:////srv/t.db"
    assert settings.jobs.job_timeout_seconds == 11
    assert settings.retention.ttl_completed_hours == 12
    assert settings.retention.ttl_failed_hours == 13
    assert settings.intervals.cleanup_interval_seconds == 14
    assert settings.service.port == 8000
    named = {each.variable.bare: each.origin for each in settings.effective()}
    assert named["TTL_FAILED_HOURS"] == "environment as TTL_FAILED_HOURS"


def test_both_names_are_fine_when_they_agree_and_refused_when_they_differ() -> None:
    agreeing = {"TTL_FAILED_HOURS": "3", "TIDEMILL_TTL_FAILED_HOURS": "3 "}
    assert Settings.load(agreeing).retention.ttl_failed_hours == 3

    (problem,) = problems_of(TTL_FAILED_HOURS="3", TIDEMILL_TTL_FAILED_HOURS="4")
    assert problem == (
        "TIDEMILL_TTL_FAILED_HOURS='4' and TTL_FAILED_HOURS='3' are the same setting with "
        "different values: keep one."
    )


def test_a_wrong_bare_variable_is_called_by_its_own_name() -> None:
    assert problems_of(TTL_FAILED_HOURS="soon")[0].startswith("TTL_FAILED_HOURS is 'soon'")


def test_a_password_is_never_shown() -> None:
    secret = "hunter2"
    for problem in (
        *problems_of(DATABASE_URL=f"mysql://u:{secret}@h/d"),
        *problems_of(
            DATABASE_URL=f"postgres://u:{secret}@h/d",
            TIDEMILL_DATABASE_URL=f"postgres://u:{secret}@i/d",
        ),
    ):
        assert secret not in problem
        assert "u:***@" in problem
    settings = Settings.load({"DATABASE_URL": f"postgres://u:{secret}@h/d"})
    assert not any(secret in each.shown for each in settings.effective())


def test_kubernetes_service_links_are_passed_over_and_told() -> None:
    links = {
        "TIDEMILL_SERVICE_HOST": "10.0.0.1",
        "TIDEMILL_SERVICE_PORT": "8000",
        "TIDEMILL_SERVICE_PORT_HTTP": "8000",
        "TIDEMILL_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "TIDEMILL_PORT_8000_TCP_ADDR": "10.0.0.1",
        "TIDEMILL_WEB_SERVICE_HOST": "10.0.0.2",
        "TIDEMILL_WEB_PORT": "tcp://10.0.0.2:80",
        "TIDEMILL_WEB_PORT_80_TCP_PROTO": "tcp",
    }
    assert set(Settings.load(links).skipped_variables) == set(links)


def test_a_port_that_kubernetes_set_says_how_to_turn_that_off() -> None:
    (problem,) = problems_of(TIDEMILL_PORT="tcp://10.0.0.1:8000")
    assert "enableServiceLinks: false" in problem


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"LEASE_SECONDS": "4"}, ("TIDEMILL_LEASE_SECONDS", "TIDEMILL_HEARTBEAT_SECONDS")),
        ({"HEARTBEAT_SECONDS": "7.5"}, ("TIDEMILL_LEASE_SECONDS", "TIDEMILL_HEARTBEAT_SECONDS")),
        (
            {"JOB_TIMEOUT_SECONDS": "7201"},
            ("TIDEMILL_JOB_TIMEOUT_SECONDS", "TIDEMILL_JOB_TIMEOUT_MAX_SECONDS"),
        ),
        (
            {"PUBLIC_URL": "https://v.example/tide"},
            ("TIDEMILL_PUBLIC_URL", "TIDEMILL_ROOT_PATH"),
        ),
        (
            {"DATA_DIR": "/srv/t", "ADMIN_KEY_FILE": "/srv/t/key"},
            ("TIDEMILL_ADMIN_KEY_FILE", "TIDEMILL_DATA_DIR"),
        ),
        ({"CORS_ORIGINS": "*"}, ("TIDEMILL_CORS_ORIGINS",)),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    environ: dict[str, str], named: tuple[str, ...]
) -> None:
    problems = problems_of(**{f"TIDEMILL_{name}": value for name, value in environ.items()})
    assert len(problems) == 1
    assert all(name in problems[0] for name in named)


def test_several_misfits_are_all_named() -> None:
    problems = problems_of(TIDEMILL_LEASE_SECONDS="1", TIDEMILL_JOB_TIMEOUT_SECONDS="9999")
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"HOST": "localhost"}, True),
        ({"HOST": "127.9.9.9"}, True),
        ({"HOST": "::1"}, True),
        ({"HOST": "0.0.0.0"}, False),
        ({"HOST": "::"}, False),
        ({"HOST": "tide.internal"}, False),
        ({"ADMIN_KEY_FILE": "/k"}, False),
        ({"PUBLIC_URL": "https://v.example"}, False),
        ({"TRUSTED_PROXIES": "10.0.0.1"}, False),
    ],
)
def test_the_service_is_open_only_where_nobody_else_can_reach_it(
    environ: dict[str, str], expected: bool
) -> None:
    settings = Settings.load({f"TIDEMILL_{name}": value for name, value in environ.items()})
    assert settings.is_open is expected


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1KiB", 1024), ("1 kb", 1000), ("1.5GiB", 3 * 2**29), ("2TB", 2 * 10**12)],
)
def test_sizes_come_in_plain_bytes_and_in_units(text: str, size: int) -> None:
    assert Settings.load({"TIDEMILL_MAX_UPLOAD_BYTES": text}).uploads.max_upload_bytes == size


def test_what_is_shown_reads_back_to_the_same_settings() -> None:
    given = {f"TIDEMILL_{name}": text for name, (text, _) in OTHER_VALUES.items()}
    given["TIDEMILL_PUBLIC_URL"] = "https://v.example/tide"
    given["TIDEMILL_DATABASE_URL"] = "sqlite:////srv/t.db"
    settings = Settings.load(given)

    again = Settings.load({each.variable.name: each.shown for each in settings.effective()})

    assert again == settings
