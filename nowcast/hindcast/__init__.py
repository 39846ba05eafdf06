"""Methods judged by past frames."""
