"""What the simulator's catalogue and its rewards look like."""
