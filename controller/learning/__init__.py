"""Learning from few and weak labels, and from a running session; the process that does it."""
