"""Contrastive losses without the matrix of all logits, on and below the definition in ``reference.py``."""
