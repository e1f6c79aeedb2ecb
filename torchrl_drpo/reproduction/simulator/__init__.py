"""Targets on the paper's simulator, many seeds at once."""
