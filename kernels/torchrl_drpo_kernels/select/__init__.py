"""Top-kappa selection on the device: quota, threshold, weights, moments, compacted rows."""
