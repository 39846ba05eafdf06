"""Measurements of each stage beside its peer, in one run: ratios, not absolute times."""
