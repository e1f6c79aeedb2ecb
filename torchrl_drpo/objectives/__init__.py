"""LossModules: one rule for the weights each."""
