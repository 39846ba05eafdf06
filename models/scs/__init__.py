"""SCS: the spatiotemporal coupled network, and its training."""
