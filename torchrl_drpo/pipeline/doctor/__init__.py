"""``drpo doctor``: what is installed, what runs where, and whether it computes what it should."""
