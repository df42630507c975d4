"""Personalized Residuals: concepts as low-rank residuals of projections, each where it should act (LAG)."""
