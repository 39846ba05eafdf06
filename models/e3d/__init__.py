"""E3D-LSTM: three-dimensional convolutions with a recalled memory."""
