"""The settings of every command, which import nothing heavy: help and option errors are instant."""
