"""Attention with label-table logit edits and read-out columns, on and below the definition in ``reference.py``."""
