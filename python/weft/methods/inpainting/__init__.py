"""Inpainting whatever the method: windows of large pictures, paste-back, canvases."""
