"""Log-probability of one catalogue item a row, without the [N, V] logits."""
