"""Folders that outlive a run: policies, item indices, reward models."""
