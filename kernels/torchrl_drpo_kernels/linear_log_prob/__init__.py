"""Log-probability of one catalogue item a row, without the [N, V] logits."""

from torchrl_drpo_kernels.linear_log_prob.op import linear_log_prob

__all__ = ["linear_log_prob"]
