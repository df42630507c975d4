"""Mean squared error of every pair of a row and a column, on and below the definition in ``reference.py``."""
