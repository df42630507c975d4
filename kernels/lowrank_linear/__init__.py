"""A linear layer with gated low-rank terms, one for each concept, on and below the definition in ``reference.py``."""
