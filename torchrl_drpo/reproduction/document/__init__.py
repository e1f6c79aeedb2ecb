"""The report of claims: its parts, and the two files that show them."""
