"""The paper: every table, figure and claim as a target, and what goes past it."""
