"""The header ``Idempotency-Key``: which calls honour it, and what a request is known by."""

import hashlib
import json
import re
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.dependencies.models import Dependant

from app.api.access import route_path
from app.domain.errors import InvalidHeader, NotSupported
from app.domain.idempotency import LONGEST_KEY, IdempotentRequest

HEADER = "idempotency-key"
REPLAYED = "Idempotency-Replayed"
REPLAYED_DOCS: dict[str, Any] = {
    REPLAYED: {
        "description": "`true` when the same request was served before: this is what it made, as it"
        " is now.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
"""The header for the OpenAPI; ``replayable`` puts it where it belongs."""
Responses = dict[int | str, dict[str, Any]]

_PATTERN = re.compile(rf"[!-~]{{1,{LONGEST_KEY}}}\Z")
_ELSEWHERE = "Idempotency-Key is honoured for JSON bodies of jobs, sessions and batches only."


async def get_idempotent(
    request: Request,
    _key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="A name of your own for this request: sent again with the same body, it"
            " answers with what the first one made. Kept for 24 hours at least.",
            json_schema_extra={
                "minLength": 1,
                "maxLength": LONGEST_KEY,
                "pattern": f"^[!-~]{{1,{LONGEST_KEY}}}$",
                "examples": ["order-4711-trim"],
            },
        ),
    ] = None,
) -> IdempotentRequest | None:
    """Return what the request is known by, None without a key.

    Raises InvalidHeader for a key that is none, NotSupported where the body is no JSON.
    """
    keys = request.headers.getlist(HEADER)
    if not keys:
        return None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.startswith("multipart/"):
        raise NotSupported(_ELSEWHERE)
    if len(keys) > 1 or not _PATTERN.match(keys[0]):
        msg = f"Idempotency-Key must be one value of 1 to {LONGEST_KEY} visible ASCII characters."
        raise InvalidHeader(msg)
    return IdempotentRequest(
        scope=f"{request.method} {route_path(request.scope)}",
        key=keys[0],
        fingerprint=_fingerprint(await request.body()),
    )


Idempotent = Annotated[IdempotentRequest | None, Depends(get_idempotent)]


def honours_key(dependant: Dependant) -> bool:
    """Whether a route asks for ``Idempotent``, itself or through its dependencies."""
    return dependant.call is get_idempotent or any(map(honours_key, dependant.dependencies))


def refuse_key(request: Request) -> None:
    """Raise NotSupported for a key that nothing would honour; it is never ignored."""
    if request.method == "POST" and HEADER in request.headers:
        raise NotSupported(_ELSEWHERE)


def replayable(responses: Responses) -> Responses:
    """Return OpenAPI ``responses`` that may also be about what an earlier request made."""
    return {
        status: {**each, "headers": {**each.get("headers", {}), **REPLAYED_DOCS}}
        for status, each in responses.items()
    }


def mark_replayed(response: Response) -> None:
    """Say that the response is about what an earlier request made."""
    response.headers[REPLAYED] = "true"


def _fingerprint(body: bytes) -> str:
    """Return a digest of what the body says: order of members and white space do not count."""
    value = json.loads(body) if body else None
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
