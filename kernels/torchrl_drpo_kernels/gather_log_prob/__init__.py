"""Log-probability of given tokens from given logits, summed over a sequence."""
