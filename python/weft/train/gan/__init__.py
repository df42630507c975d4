"""Text-to-image GANs to compare losses on: two published designs, compact, and how they are trained."""
