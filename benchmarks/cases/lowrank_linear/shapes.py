"""The linear layers that are measured: projections of real models, as rows of hidden states."""

from __future__ import annotations

from benchmarks.registry import Shape


def _shape(name: str, kind: str, sizes: tuple[int, ...], origin: str, optional: bool = False) -> Shape:
    return Shape(name, dict(zip(("B", "h", "w", "Cin", "Cout"), sizes, strict=True)), origin, optional, kind)


# "block": the projection at the end of a transformer block, which a mask may localise; "layer": any other
SHAPES = (
    _shape("sd15_out_64", "block", (2, 64, 64, 320, 320), "Stable Diffusion 1.5 at 512 px, proj_out at 64x64, CFG"),
    _shape("sd15_out_32", "block", (2, 32, 32, 640, 640), "the same at 32x32"),
    _shape("sd15_out_16", "block", (2, 16, 16, 1280, 1280), "the same at 16x16"),
    _shape("sdxl_out_64", "block", (2, 64, 64, 640, 640), "SDXL at 1024 px, proj_out at 64x64, CFG"),
    _shape("sdxl_out_32", "block", (2, 32, 32, 1280, 1280), "the same at 32x32"),
    _shape("sd3_out", "block", (2, 64, 64, 1536, 1536), "SD3-medium at 1024 px, to_out of the image", optional=True),
    _shape("flux_out", "block", (1, 64, 64, 3072, 3072), "Flux at 1024 px, to_out of a double block", optional=True),
    _shape("flux_single", "layer", (1, 64, 72, 15360, 3072), "Flux, proj_out of a single block", optional=True),
    _shape("sdxl_text", "layer", (2, 7, 11, 2048, 1280), "SDXL, keys of 77 text tokens"),
    _shape("sdxl_ff_in", "layer", (2, 32, 32, 1280, 10240), "SDXL, feed-forward at 32x32", optional=True),
    _shape("tiny_out", "block", (2, 3, 5, 24, 16), "no model; shows that everything runs", optional=True),
)
