"""How rain moves: optical flow, the moving air, scales and ranks of a field."""
