"""Model families: what weft knows of each kind of denoiser."""
