"""Forecasting networks: tensors in, tensors out; nothing of files, Redis or HTTP."""
