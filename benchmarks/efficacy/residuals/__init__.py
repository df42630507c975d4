"""Whether a taught concept is drawn, and whether the rest of the picture stays."""
