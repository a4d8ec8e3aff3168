"""The simulated STED microscope: its engine, what it is tested against, and the driver around it."""
