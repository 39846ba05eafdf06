"""What a GPU is good for here: tests, times of networks, and a training of minutes."""
