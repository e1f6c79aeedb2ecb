"""Actors, encoders and decoders."""
