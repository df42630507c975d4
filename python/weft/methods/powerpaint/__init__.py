"""PowerPaint: inpainting tasks chosen by learnt prompts (v1) or by a branch beside the UNet (v2)."""
