"""What ``drpo train --policy`` can train: one file a kind of policy."""
