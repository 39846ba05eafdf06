"""Networks as forecasting methods: weights, tiles, memory."""
