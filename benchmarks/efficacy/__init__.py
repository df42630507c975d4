"""Does a method do what it claims? Images of the shapes world with and without it, from the same noise, read back."""
