"""``drpo reproduce``: the paper claim by claim, one file a table or figure, and what goes past it."""
