"""The frozen tree of all settings, its cross-checks, and the one way to load it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, model_validator

from app.settings.environment import read
from app.settings.groups import (
    AccessSettings,
    DataSettings,
    DiskSettings,
    Group,
    IntervalSettings,
    JobSettings,
    MediaSettings,
    RetentionSettings,
    ServiceSettings,
    SessionSettings,
    UploadSettings,
)
from app.settings.variables import Variable, variables_of

DEFAULT = "default"


class Settings(Group):
    """Every setting of the service. ``Settings()`` is all defaults and reads no environment."""

    service: ServiceSettings = Field(default_factory=ServiceSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    uploads: UploadSettings = Field(default_factory=UploadSettings)
    sessions: SessionSettings = Field(default_factory=SessionSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    intervals: IntervalSettings = Field(default_factory=IntervalSettings)
    disk: DiskSettings = Field(default_factory=DiskSettings)
    media: MediaSettings = Field(default_factory=MediaSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _skipped: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        options: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the settings of ``environ``; None means ``.env`` under the process's environment.

        ``options`` of the command, by the same names, go above what the environment says.

        Raises ``SettingsError`` with every problem there is, not only the first.
        """
        found = read(environ, options or {}, cls)
        settings = cls(**found.groups)
        settings._origins = found.origins
        settings._skipped = found.skipped
        return settings

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems = cross_check(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def skipped_variables(self) -> tuple[str, ...]:
        """Variables that Kubernetes set for its Services and that were passed over."""
        return self._skipped

    @property
    def is_open(self) -> bool:
        """Whether callers need no key: bound to loopback, and nothing says others may come."""
        reachable = self.access.admin_key_file or self.service.public_url
        return is_loopback(self.service.host) and not (reachable or self.service.trusted_proxies)

    def effective(self) -> Iterator["Effective"]:
        """Yield every setting with its present value and where it came from, secrets hidden."""
        for variable in variables():
            value = getattr(getattr(self, variable.group), variable.field)
            yield Effective(
                variable, value, variable.show(value), self._origins.get(variable.name, DEFAULT)
            )


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting as it is in force: ``shown`` is safe to print, ``origin`` says who set it."""

    variable: Variable
    value: Any
    shown: str
    origin: str


def variables() -> tuple[Variable, ...]:
    """Return every setting, group by group in the order of the tree."""
    return variables_of(Settings)


def is_loopback(host: str) -> bool:
    """Whether listening on ``host`` reaches this machine only."""
    name = host.strip("[]").rpartition("%")[0] or host.strip("[]")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def cross_check(settings: Settings) -> list[str]:
    """Return what does not fit together, each as a sentence naming the variables."""
    jobs, service = settings.jobs, settings.service
    problems = []
    if jobs.lease_seconds <= 2 * jobs.heartbeat_seconds:
        problems.append(
            f"TIDEMILL_LEASE_SECONDS is {jobs.lease_seconds:g}, but must be more than twice "
            f"TIDEMILL_HEARTBEAT_SECONDS, which is {jobs.heartbeat_seconds:g}."
        )
    if jobs.job_timeout_seconds > jobs.job_timeout_max_seconds:
        problems.append(
            f"TIDEMILL_JOB_TIMEOUT_SECONDS is {jobs.job_timeout_seconds:g}, but may be at most "
            f"TIDEMILL_JOB_TIMEOUT_MAX_SECONDS, which is {jobs.job_timeout_max_seconds:g}."
        )
    public_path = urlsplit(service.public_url or "").path
    if service.public_url and public_path != service.root_path:
        problems.append(
            f"TIDEMILL_PUBLIC_URL has the path {public_path!r}, but must have that of "
            f"TIDEMILL_ROOT_PATH, which is {service.root_path!r}."
        )
    if "*" in service.cors_origins and settings.is_open:
        problems.append(
            "TIDEMILL_CORS_ORIGINS is '*', but without a key any web page could then drive the "
            "service: name the origins, or set TIDEMILL_ADMIN_KEY_FILE."
        )
    folder, key_file = settings.data.data_dir, settings.access.admin_key_file
    if key_file is not None and _is_below(key_file, folder):
        problems.append(
            f"TIDEMILL_ADMIN_KEY_FILE is {str(key_file)!r}, but must lie outside of "
            f"TIDEMILL_DATA_DIR, where every file must be Tidemill's own."
        )
    return problems


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())
