"""Several processes: the only package that asks ``torch.distributed``."""
