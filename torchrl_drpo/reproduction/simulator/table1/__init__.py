"""Table 1: every method's reward beside the published one."""
