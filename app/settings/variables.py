"""A setting as people meet it: its names, what it allows, its default and how a value is shown."""

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from app.settings.groups import Group
from app.settings.kinds import Allowed, hide_password, show_size

PREFIX = "TIDEMILL_"
BARE_NAMES = frozenset(
    {
        "DATABASE_URL",
        "JOB_TIMEOUT_SECONDS",
        "TTL_COMPLETED_HOURS",
        "TTL_FAILED_HOURS",
        "CLEANUP_INTERVAL_SECONDS",
    }
)
"""Settings whose name without the prefix is accepted as well."""
SECRETS = frozenset({"DATABASE_URL"})


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting as people meet it: its variable's ``name`` and what there is to say of it."""

    group: str
    field: str
    info: FieldInfo

    @property
    def bare(self) -> str:
        return self.field.upper()

    @property
    def name(self) -> str:
        return PREFIX + self.bare

    @property
    def names(self) -> tuple[str, ...]:
        """The names it is accepted under, the prefixed one first."""
        return (self.name, self.bare) if self.bare in BARE_NAMES else (self.name,)

    @property
    def is_secret(self) -> bool:
        return self.bare in SECRETS

    @property
    def description(self) -> str:
        return self.info.description or ""

    @property
    def allowed(self) -> str:
        return next(each.text for each in self.info.metadata if isinstance(each, Allowed))

    @property
    def default(self) -> str:
        """The default, in words or as it would be written."""
        return self._said("shown") or self.show(self.info.default)

    @property
    def example(self) -> str:
        """A value to write into a file of variables: the default where that is one."""
        return self._said("example") or self.show(self.info.default, none="")

    def _said(self, what: str) -> str | None:
        extra = self.info.json_schema_extra
        return str(extra[what]) if isinstance(extra, dict) and what in extra else None

    def show(self, value: Any, *, none: str = "none") -> str:
        """Return a value as it would be written, a password in it hidden."""
        if value is None or value in ((), ""):
            return none
        if isinstance(value, tuple):
            return ",".join(value)
        if isinstance(value, float):
            return f"{value:.15g}"
        if self.field.endswith("_bytes"):
            return show_size(int(value))
        return hide_password(str(value)) if self.is_secret else str(value)


def groups_of(tree: type[Group]) -> dict[str, type[Group]]:
    """Return the groups of a tree by name."""
    return {
        name: part.annotation
        for name, part in tree.model_fields.items()
        if isinstance(part.annotation, type) and issubclass(part.annotation, Group)
    }


def variables_of(tree: type[Group]) -> tuple[Variable, ...]:
    """Return every setting of a tree, group by group in its order."""
    return tuple(
        Variable(name, field, info)
        for name, group in groups_of(tree).items()
        for field, info in group.model_fields.items()
    )
