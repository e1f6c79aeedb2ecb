"""Rows inside the training period, on which steps and settings are chosen."""
