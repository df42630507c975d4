"""Prompts: what was encoded, and where each word stands."""
