"""Builds everything a process needs from its settings, in order, and closes it in reverse."""

from app.bootstrap.opening import open_container
from app.bootstrap.place import migrate_database
from app.bootstrap.seat import ALONE, Seat
from app.bootstrap.stores import Role
from app.infrastructure.storage.paths import StartRefused

__all__ = ["ALONE", "Role", "Seat", "StartRefused", "migrate_database", "open_container"]
