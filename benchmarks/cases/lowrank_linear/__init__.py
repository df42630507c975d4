"""The linear layer with gated residuals: its shapes, its problem, and everybody who can do it."""
