"""Offline policy optimisation for recommendation logs, as TorchRL losses and custom ops."""
