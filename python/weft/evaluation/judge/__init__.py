"""The extractor of the shapes world, and how it is trained."""
