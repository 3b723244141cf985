"""Who owns what. Every row has an owner from the start; there is one so far."""

OWNER = "owner"
"""The single owner, of everything made in the open mode and with the key of ``ADMIN_KEY_FILE``."""
