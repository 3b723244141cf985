"""The rules of uploads, sessions, batches, jobs and outputs. Pure: no I/O, no clock, no framework."""
