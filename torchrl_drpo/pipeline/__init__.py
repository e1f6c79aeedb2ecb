"""The product: a log to a policy that serves, one file a command."""
