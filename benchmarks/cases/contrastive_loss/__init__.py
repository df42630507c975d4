"""The contrastive loss: its problem, and everybody who can do it."""
