"""The kinds of values a variable takes: how each is read, what it allows, how it is shown."""

import ipaddress
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_DISPLAY_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))

MAX_HOURS = 87_600.0
"""Ten years: more is a typing error, and far from what a date can hold."""
MAX_SECONDS = 31_536_000.0
MAX_BYTES = 2**60
LOOPBACK = "loopback"
"""The entry of CORS_ORIGINS that stands for every page served by this machine itself."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a variable takes, in words that finish the sentence "allowed is ..."."""

    text: str


def parse_size(value: Any) -> Any:
    """Return bytes for text such as ``20GiB``, ``512 MB`` or ``1048576``; other types pass."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        msg = "not a size"
        raise ValueError(msg)
    return round(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def show_size(size_bytes: int) -> str:
    """Return a size as ``parse_size`` reads it, in the largest unit that divides it."""
    for unit, factor in _DISPLAY_UNITS:
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def parse_number(value: Any) -> Any:
    """Return a finite float for plain decimal text; Python's own spellings (1_000, nan) refuse."""
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            msg = "not a number"
            raise ValueError(msg)
        value = float(text)
    if isinstance(value, float) and not math.isfinite(value):
        msg = "not a finite number"
        raise ValueError(msg)
    return value


def parse_whole(value: Any) -> Any:
    """Return an int for plain decimal text; other types pass."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("tcp://"):
        msg = (
            "Kubernetes put this address here for a Service of the same name; "
            "set enableServiceLinks: false in the pod's spec"
        )
        raise ValueError(msg)
    if not _WHOLE.fullmatch(value.strip()):
        msg = "not a whole number"
        raise ValueError(msg)
    return int(value)


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _empty_is_none(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _check_url(value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value.strip())
    named = parts.scheme in ("http", "https") and parts.hostname
    if not named or parts.query or parts.fragment or parts.username is not None:
        msg = "not an http or https address"
        raise ValueError(msg)
    _ = parts.port  # raises ValueError when it is no port
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _check_root_path(value: str) -> str:
    path = value.strip().rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        msg = "not a path"
        raise ValueError(msg)
    return path


def _check_origin(value: str) -> str:
    if value.lower() == LOOPBACK or value == "*":
        return value.lower()
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.rstrip("/"):
        msg = f"{value} is not an origin"
        raise ValueError(msg)
    _ = parts.port
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _check_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_check_origin(value) for value in values)


def _check_proxies(values: tuple[str, ...]) -> tuple[str, ...]:
    # uvicorn takes what it cannot parse for a literal that never matches: refuse it here.
    return tuple(
        str(ipaddress.ip_network(value)) if "/" in value else str(ipaddress.ip_address(value))
        for value in values
    )


def _check_database_url(value: str | None) -> str | None:
    if value is None:
        return None
    url = value.strip()
    if url.startswith("sqlite:///"):
        path = url.removeprefix("sqlite:///")
        if not path or path.startswith(":memory:") or "?" in path:
            msg = "needs the path of a file"
            raise ValueError(msg)
        return url
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+psycopg") and separator and rest:
        return f"postgresql+psycopg://{rest}"
    msg = "not a database address"
    raise ValueError(msg)


def _check_folder(value: Any) -> Any:
    if isinstance(value, str):
        if not value.strip() or "\0" in value:
            msg = "needs a path"
            raise ValueError(msg)
        return Path(value).expanduser()
    return value


def hide_password(url: str) -> str:
    """Return an address with its password replaced, for messages and listings."""
    return re.sub(r"(://[^/@\s]*?:)[^@\s]*@", r"\1***@", url)


Port = Annotated[
    int,
    BeforeValidator(parse_whole),
    Field(ge=0, le=65_535),
    Allowed("a port from 0 to 65535 (0: any that is free)"),
]
Host = Annotated[
    str,
    Field(min_length=1, pattern=r"^[A-Za-z0-9.:_%-]+$"),
    Allowed("a host name or an address to listen on"),
]
RootPath = Annotated[
    str, AfterValidator(_check_root_path), Allowed("empty, or a path such as /tidemill")
]
PublicUrl = Annotated[
    str | None,
    BeforeValidator(_empty_is_none),
    AfterValidator(_check_url),
    Allowed("an address such as https://video.example.org, without query or credentials"),
]
Proxies = Annotated[
    tuple[str, ...],
    BeforeValidator(_split),
    AfterValidator(_check_proxies),
    Allowed("addresses or networks separated by commas, such as 10.0.0.5,172.16.0.0/12"),
]
Origins = Annotated[
    tuple[str, ...],
    BeforeValidator(_split),
    AfterValidator(_check_origins),
    Allowed(
        "origins separated by commas, such as https://app.example.org; "
        "loopback stands for pages of this machine, * for any page (only where keys are required)"
    ),
]
Choice = BeforeValidator(_lower)
Folder = Annotated[Path, BeforeValidator(_check_folder), Allowed("a folder")]
OptionalFile = Annotated[
    Path | None,
    BeforeValidator(_check_folder),
    BeforeValidator(_empty_is_none),
    Allowed("the path of a file"),
]
DatabaseUrl = Annotated[
    str | None,
    BeforeValidator(_empty_is_none),
    AfterValidator(_check_database_url),
    Allowed("sqlite:////absolute/path.db or postgresql://user:password@host/database"),
]
Bytes = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0, le=MAX_BYTES),
    Allowed("a size such as 20GiB, 512MB or plain bytes"),
]
PositiveBytes = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=1, le=MAX_BYTES),
    Allowed("a size over 0 such as 20GiB, 512MB or plain bytes"),
]
MetadataBytes = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=256, le=32 * 2**10),
    Allowed("a size from 256 bytes to 32KiB"),
]
Days = Annotated[
    float,
    BeforeValidator(parse_number),
    Field(ge=0, le=MAX_HOURS / 24, allow_inf_nan=False),
    Allowed("days from 0 to 3650, decimals too"),
]
Hours = Annotated[
    float,
    BeforeValidator(parse_number),
    Field(ge=0, le=MAX_HOURS, allow_inf_nan=False),
    Allowed("hours from 0 (at the next sweep) to 87600, decimals too"),
]
Seconds = Annotated[
    float,
    BeforeValidator(parse_number),
    Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False),
    Allowed("seconds from 0 to 31536000, decimals too"),
]
PositiveSeconds = Annotated[
    float,
    BeforeValidator(parse_number),
    Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False),
    Allowed("seconds over 0, up to 31536000, decimals too"),
]
PositiveNumber = Annotated[
    float,
    BeforeValidator(parse_number),
    Field(gt=0, allow_inf_nan=False),
    Allowed("a number over 0, decimals too"),
]
PositiveWhole = Annotated[
    int,
    BeforeValidator(parse_whole),
    Field(ge=1, le=1_000_000),
    Allowed("a whole number from 1 to 1000000"),
]
Workers = Annotated[
    int,
    BeforeValidator(parse_whole),
    Field(ge=0, le=1024),
    Allowed("a whole number from 0 (no jobs run here) to 1024"),
]
Processes = Annotated[
    int,
    BeforeValidator(parse_whole),
    Field(ge=1, le=64),
    Allowed("a whole number from 1 to 64"),
]
Pixels = Annotated[
    int,
    BeforeValidator(parse_whole),
    Field(ge=1, le=2**31),
    Allowed("a whole number from 1 to 2147483648"),
]
