"""Every objective on a real log, each along its own strength."""
