"""Log-density of a diagonal Gaussian on the kept rows, and the remoteness of each."""
