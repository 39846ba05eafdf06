"""Training of networks from the archive, up to their promotion."""
