"""Adapters: the database, the data folder, media tools, the scheduler, the worker."""
