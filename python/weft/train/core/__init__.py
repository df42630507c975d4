"""The one training loop, its checkpoints, and what every fit shares."""
