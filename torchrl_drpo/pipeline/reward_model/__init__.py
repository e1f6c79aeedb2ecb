"""The reward model of a log, which some objectives follow."""
