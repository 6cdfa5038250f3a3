"""Every matrix of a trained network: its file, its tensors, and an interval for each of them."""
