"""Simulated microscopes and samples. They answer like real ones, through the same protocol."""
