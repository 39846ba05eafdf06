"""Radar that does not exist: storms of any length from a seed, for demonstrations, tests and training."""

from nowcast.simulation.storm import SOURCE, Storm, demonstration_grid, simulate_archive

__all__ = ["SOURCE", "Storm", "demonstration_grid", "simulate_archive"]
