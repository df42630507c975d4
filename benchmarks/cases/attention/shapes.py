"""The attention layers that are measured: cross-attention, self-attention, and the joint attention of MM-DiTs."""

from __future__ import annotations

from benchmarks.registry import Shape

# joint attention: the keys that are text tokens, [start, stop)
TEXT_KEYS = {"sd3_joint": (4096, 4429), "flux_joint": (0, 512), "tiny_joint": (16, 21)}


def _shape(name: str, kind: str, sizes: tuple[int, ...], origin: str, optional: bool = False) -> Shape:
    return Shape(name, dict(zip(("B", "H", "Nq", "Nk", "D"), sizes, strict=True)), origin, optional, kind)


SHAPES = (
    _shape("sd15_64", "cross", (2, 8, 4096, 77, 40), "Stable Diffusion 1.5 at 512 px, cross-attention at 64x64, CFG"),
    _shape("sd15_32", "cross", (2, 8, 1024, 77, 80), "the same at 32x32"),
    _shape("sd15_16", "cross", (2, 8, 256, 77, 160), "the same at 16x16"),
    _shape("sdxl_64", "cross", (2, 10, 4096, 77, 64), "SDXL at 1024 px, cross-attention at 64x64, CFG"),
    _shape("sdxl_32", "cross", (2, 20, 1024, 77, 64), "the same at 32x32"),
    _shape("sd15_self_32", "self", (2, 8, 1024, 1024, 80), "Stable Diffusion 1.5, self-attention at 32x32, CFG"),
    _shape("sd15_self_64", "self", (2, 8, 4096, 4096, 40), "the same at 64x64", optional=True),
    _shape("sdxl_self_64", "self", (2, 10, 4096, 4096, 64), "SDXL at 1024 px, self-attention at 64x64", optional=True),
    _shape("pixart_64", "cross", (2, 16, 4096, 300, 72), "PixArt at 1024 px over 300 T5 tokens", optional=True),
    _shape("stress_d40", "cross", (2, 8, 16384, 77, 40), "Stable Diffusion 1.5 at 1024 px, 128x128", optional=True),
    _shape("stress_d64", "cross", (2, 10, 16384, 512, 64), "128x128 over 512 text tokens", optional=True),
    _shape("stress_d128", "cross", (1, 24, 16384, 512, 128), "128x128, wide heads, 512 text tokens", optional=True),
    _shape("sd3_joint", "joint", (2, 24, 4429, 4429, 64), "SD3-medium at 1024 px, image then text", optional=True),
    _shape("flux_joint", "joint", (1, 24, 4608, 4608, 128), "Flux at 1024 px, text then image", optional=True),
    _shape("tiny", "cross", (2, 2, 20, 9, 8), "no model; shows that everything runs", optional=True),
    _shape("tiny_self", "self", (2, 2, 12, 12, 8), "the same for self-attention", optional=True),
    _shape("tiny_joint", "joint", (2, 2, 21, 21, 8), "the same for joint attention", optional=True),
)
