"""The training campaign: networks learn on this machine's idle cores, from a frozen copy of the code."""
