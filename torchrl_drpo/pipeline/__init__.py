"""Whole runs: configuration, training loop, demo."""
