"""Policies that go on learning from what they serve."""
