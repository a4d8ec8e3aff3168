"""Learning from few and weak labels."""
