"""Why a signed loss runs away from a fixed log."""
