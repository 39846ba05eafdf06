"""Ways to forecast, and which of them answers."""
