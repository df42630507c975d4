"""How the shapes model is trained: stages, loop, checkpoints and export."""
