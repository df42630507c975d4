"""Folders of pictures and captions, read for training."""
