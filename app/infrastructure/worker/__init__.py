"""Engines that carry queued jobs to a runner, and what proves that a worker is alive."""
