"""Opens a container: the stores in order, then the services over them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.bootstrap.checks import add_checks
from app.bootstrap.place import refuse_cluster
from app.bootstrap.seat import ALONE, Seat
from app.bootstrap.stores import Role, open_stores
from app.bootstrap.wiring import wire
from app.services.container import Container
from app.settings import Settings


@asynccontextmanager
async def open_container(
    settings: Settings, role: Role, seat: Seat = ALONE
) -> AsyncIterator[Container]:
    """Open the data folder and its database and yield what works on them.

    ``SERVE`` makes the folder, migrates the database and takes a worker's lock; ``COMMAND`` wants
    them to be there and works beside running services. Nothing runs yet: whoever opens it starts
    recovery, engine and scheduler. Raises ``StartRefused``, and database errors.
    """
    refuse_cluster(settings)
    async with AsyncExitStack() as stack:
        stores = await open_stores(settings, role, seat, stack)
        add_checks(settings, stores)
        yield wire(settings, stores)
