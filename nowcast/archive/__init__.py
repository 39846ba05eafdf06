"""The archive of frames, which is the truth."""
