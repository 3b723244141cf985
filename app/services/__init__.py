"""Use cases. Each public method is one short transaction, with bytes touched outside of it."""
