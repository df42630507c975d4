"""Training of task prompts for inpainting."""
