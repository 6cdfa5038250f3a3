"""The Lipschitz constant of a stack of layers: its parts, the bounds above, the points below."""
