"""``drpo reproduce``: the paper claim by claim, one file a target, and what goes past it."""
