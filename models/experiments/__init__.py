"""Experiments that show whether a mechanism does what its paper says, on sequences of known physics."""
