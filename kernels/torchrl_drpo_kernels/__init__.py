"""Custom ops for offline policy losses; needs torch and triton only."""
