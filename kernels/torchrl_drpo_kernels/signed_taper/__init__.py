"""The signed loss with tapered repulsion, and its gradient, in one pass."""
