"""Experiments on the networks' mechanisms."""
