"""Signed losses under control, where closed forms say what is right."""
