"""Radar frames in, verified precipitation forecasts out: everything that is true of radar and forecasts."""

__version__ = "0.1.0"
