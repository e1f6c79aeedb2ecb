"""``drpo demo``: from a noisy simulated log to a better policy, in minutes on a laptop."""
