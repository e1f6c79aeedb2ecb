"""The error of a log that is not what its schema says."""


class LogError(ValueError):
    """A log that cannot be read as its schema says: names the file and, where known, the row."""
