"""``drpo tune``: settings chosen on rows inside the training period."""
