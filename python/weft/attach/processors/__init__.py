"""Attention processors that stand in for those of diffusers."""
