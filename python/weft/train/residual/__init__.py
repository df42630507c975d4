"""Training of a residual."""
