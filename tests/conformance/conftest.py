"""One service for each file of tests, and a client that watches it."""

from collections.abc import Iterator

import pytest

from tests.conformance.bench import MAX, Service, Tus
from tests.fakes.served import settings_for


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = settings_for(
        tmp_path_factory.mktemp("conformance") / "data",
        jobs={"workers": 0},
        uploads={"max_upload_bytes": MAX, "lock_wait_seconds": 2.0},
    )
    with Service(settings) as running:
        yield running


@pytest.fixture(scope="module")
def tus(service: Service) -> Tus:
    return Tus(service)
