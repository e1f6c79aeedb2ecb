"""DRPO's step as one op for each policy family: select, pack, log-prob, loss."""
