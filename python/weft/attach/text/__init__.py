"""Prompts: what was encoded, and the position of each word."""
