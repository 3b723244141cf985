"""Who owns what. Every row has an owner from the start; for now there is one."""

OWNER = "owner"
"""The single owner, of everything made in the open mode and with the key of ``ADMIN_KEY_FILE``."""
