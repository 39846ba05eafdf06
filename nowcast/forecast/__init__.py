"""A forecast: what a method predicts, its record, its file, and where files are kept."""
