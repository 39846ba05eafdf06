"""Scores of forecasts against the truth, as sums that may be pooled."""
