"""Objectives by name: what can be asked for, the options of each, and the loss that it stands for.

``options`` and ``named`` are data and import nothing heavy; ``make`` turns them into losses.
"""
