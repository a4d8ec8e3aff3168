"""Denoisers, one file a method."""
