"""Fail when the tables in the code and the migrations have parted (on a throw-away SQLite file)."""

import sys
import tempfile
from pathlib import Path

from app.infrastructure.database.migrate import check_migrations, upgrade


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'check.db'}"
        upgrade(url)
        check_migrations(url)
    print("Migrations match the tables.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
