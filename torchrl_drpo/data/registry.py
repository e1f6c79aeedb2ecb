"""Importing this makes ``load_dataset("rec:<name>")`` known to TorchRL's registry of data sets."""

import warnings

with warnings.catch_warnings():  # TorchRL's collectors warn about themselves when imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from torchrl.data.datasets import register_dataset

# By name, as TorchRL's own registry does it: the named logs wait to be asked for.
register_dataset("rec", "torchrl_drpo.data.datasets:load_log", replace=True)
