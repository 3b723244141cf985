"""The command with its bodies on one way: ``python -P THIS plain|lent COMMAND ARGUMENT ...``.

It says so in the log whenever one goes past the parser.
"""

import sys
from typing import Any

from app.api import connection
from app.cli import main

SAID = '{"event": "test.body_lent"}\n'


def take(way: str) -> None:
    """Have every body go that way that can."""
    protocol: Any = connection.OfferConnection
    protocol.lends_bodies = way == "lent"
    connection.LEAST_LENT = 1
    lend = protocol._lend

    def telling(self: Any, cycle: Any) -> Any:
        reader = lend(self, cycle)
        if reader is not None:
            sys.stdout.write(SAID)
            sys.stdout.flush()
        return reader

    protocol._lend = telling


if __name__ == "__main__":
    take(sys.argv[1])
    sys.argv = sys.argv[2:]
    main()
