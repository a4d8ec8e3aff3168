"""Trains the weights that come with Stedfast, on simulated images alone."""
