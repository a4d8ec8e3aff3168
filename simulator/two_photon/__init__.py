"""A two-photon microscope over a piece of brain that fires."""
