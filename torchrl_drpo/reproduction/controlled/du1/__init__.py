"""D-U1: categorical actions."""
