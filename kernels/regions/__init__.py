"""Regions of a grid chosen from maps: greedy search of the best window for each object."""
