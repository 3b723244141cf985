"""Rows: synchronous SQLAlchemy Core on SQLite or Postgres, behind one writer thread."""
