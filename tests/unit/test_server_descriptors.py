"""The limit of open files: raised as far as allowed and useful, never lowered."""

import resource

import pytest

from app.server.descriptors import ENOUGH, first_spare, raise_descriptor_limit

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 10**6), (ENOUGH, 10**6)),
        ((1024, NONE), (ENOUGH, NONE)),
        ((10**6, 10**6), None),
        ((NONE, NONE), None),
        ((4096, 4096), None),
    ],
)
def test_the_limit_is_raised_as_far_as_useful(
    before: tuple[int, int], after: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: made.append(limits))
    assert raise_descriptor_limit() == (before if after is None else after)[0]
    assert made == ([] if after is None else [after])


@pytest.mark.parametrize(("limit", "first"), [(65536, 65472), (1024, 960), (64, 48), (4, 3)])
def test_some_are_kept_from_new_connections(
    limit: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (limit, limit))
    assert first_spare() == first


def test_without_a_limit_every_connection_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (NONE, NONE))
    assert first_spare() > 10**6
