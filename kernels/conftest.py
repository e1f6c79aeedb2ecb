"""Imports the package before pytest collects doctests from its modules.

Collected file by file, a subpackage would otherwise be bound over the op of the same name.
"""

import torchrl_drpo_kernels  # noqa: F401
