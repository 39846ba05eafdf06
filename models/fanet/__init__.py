"""FANet: echo classes by attention over time."""
