"""What a radar image is: units, grid, domain, and the frame itself."""
