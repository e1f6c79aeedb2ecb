"""Lists for users: one at a time, for a file of them, or request by request."""
