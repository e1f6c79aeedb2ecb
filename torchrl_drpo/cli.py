"""The `drpo` command."""


def main() -> int:
    """Entry point."""
    raise NotImplementedError
