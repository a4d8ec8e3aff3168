"""Segmenters, one file a family of methods."""
