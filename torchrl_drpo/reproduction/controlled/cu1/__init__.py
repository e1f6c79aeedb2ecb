"""C-U1: continuous actions."""
