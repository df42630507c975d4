"""The attention: its shapes, its problem, and everybody who can do it."""
