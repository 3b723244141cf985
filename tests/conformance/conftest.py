"""A service for each file of tests and each way of a body, and a client that watches it."""

from collections.abc import Iterator

import pytest

from tests.conformance.bench import MAX, Service, Tus
from tests.fakes.body_ways import Way, smallest_lent
from tests.fakes.served import settings_for


@pytest.fixture(scope="module", params=Way, ids=str)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    settings = settings_for(
        tmp_path_factory.mktemp("conformance") / "data",
        data={"fsync": "off"},
        service={"log_level": "error"},
        jobs={"workers": 0},
        uploads={"max_upload_bytes": MAX, "lock_wait_seconds": 2.0},
    )
    way = request.param
    with smallest_lent(way), Service(settings, way) as running:
        yield running


@pytest.fixture(scope="module")
def tus(service: Service) -> Tus:
    return Tus(service)
