"""A distribution over slates: ordered lists of different items, drawn one after the other."""

from torchrl_drpo.distributions.plackett_luce.lists import PlackettLuce

__all__ = ["PlackettLuce"]
