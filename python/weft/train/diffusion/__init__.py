"""Noising, latents and gradients of diffusion and flow-matching models."""
