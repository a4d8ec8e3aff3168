"""Learning from few labels and from a running session; the process that does it."""
