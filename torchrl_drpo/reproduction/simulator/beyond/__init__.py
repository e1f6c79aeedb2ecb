"""What goes past the paper's table: better than DRPO on its own ground."""
