"""Training of the network that tells classes of echo."""
