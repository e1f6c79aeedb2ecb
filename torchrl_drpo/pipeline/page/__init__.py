"""The page of a run: what ``drpo train`` found, drawn from what lies in its folder."""
