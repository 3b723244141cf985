"""The only reader of the environment: one frozen tree of settings, cross-checked, all faults at once."""

from app.settings.environment import SettingsError
from app.settings.kinds import LOOPBACK
from app.settings.tree import Effective, Settings, is_loopback, variables
from app.settings.variables import Variable

__all__ = [
    "LOOPBACK",
    "Effective",
    "Settings",
    "SettingsError",
    "Variable",
    "is_loopback",
    "variables",
]
