"""``weft demo``: the embedded model drawing with and without weft, maps read out, both timed."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import weft
from weft._device import choose_device, choose_dtype
from weft._files import output_folder, whole_file
from weft.commands.loading import EMBEDDED, load_pipeline
from weft.commands.numbers import check_numbers

if TYPE_CHECKING:
    from PIL import Image

# prompt -> the words whose maps are shown
DEMO_PROMPTS = {
    "a red circle": ("red", "circle"),
    "a green star and a blue square": ("star", "square"),
    "a yellow triangle to the left of a purple ring": ("triangle", "ring"),
}


@dataclass(frozen=True)
class Demo:
    """Draw a few prompts with stock diffusers and with weft, read the attention maps, and time both."""

    out: Path = Path("demo")
    """Folder for demo.png and demo.json; made if it is not there."""
    model: str = EMBEDDED
    """'embedded' or 'embedded-sd3', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL, 3)."""
    steps: int = 25
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Classifier-free guidance weight, 1 = off."""
    seed: int = 0
    """Seed of the initial noise."""
    repeats: int = 3
    """Timed runs of each kind; their median is shown."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class DemoRow:
    """One prompt: median seconds per picture, and how far weft's picture is from the stock one.

    Attributes:
        stock_s, weft_s, maps_s: Stock diffusers; weft with no control; weft reading maps. Seconds per picture.
        largest_difference: Between stock and weft with no control, in pixel values 0 to 255.
    """

    prompt: str
    words: tuple[str, ...]
    stock_s: float
    weft_s: float
    maps_s: float
    largest_difference: int


def demo(options: Demo) -> tuple[list[DemoRow], Path]:
    """Carry out ``weft demo``; returns the rows and the path of the picture sheet.

    Raises:
        ValueError: An option out of range or a model that cannot be loaded.
        OSError: The output folder cannot be written to.
    """
    import numpy as np
    import torch
    from tqdm.auto import tqdm

    from weft.commands.sheets import stack, strip

    check_numbers(options, who="demo")
    folder = output_folder(options.out, who="demo")
    device = choose_device(options.device)
    pipe = load_pipeline(options.model, choose_dtype("auto", device), device)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt: str) -> Image.Image:
        generator = torch.Generator(device).manual_seed(options.seed)
        guidance = {"guidance_scale": options.guidance_scale, "num_inference_steps": options.steps}
        return pipe(prompt, generator=generator, **guidance).images[0]

    rows, strips = [], []
    draw(next(iter(DEMO_PROMPTS)))  # leave first-call costs out of the timing
    for prompt, words in tqdm(DEMO_PROMPTS.items(), desc="demo", unit="prompt"):
        stock_s, stock = _timed(draw, prompt, options.repeats)
        with weft.attach(pipe):
            weft_s, plain = _timed(draw, prompt, options.repeats)
        with weft.attach(pipe, weft.AttentionMaps(words)) as attachment:
            maps_s, _ = _timed(draw, prompt, options.repeats)
            overlays = [attachment.maps.image(word, over=plain) for word in words]
        difference = np.abs(np.asarray(stock, dtype=int) - np.asarray(plain, dtype=int))
        rows.append(DemoRow(prompt, words, stock_s, weft_s, maps_s, int(difference.max())))
        maps = [(f"map: {word}", overlay) for word, overlay in zip(words, overlays, strict=True)]
        strips.append(strip(prompt, [(f"stock {stock_s:.2f} s", stock), (f"weft {weft_s:.2f} s", plain), *maps]))

    path = folder / "demo.png"
    with whole_file(path) as temporary:
        stack(strips).save(temporary, format="PNG")
    with whole_file(folder / "demo.json") as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return rows, path


def describe(rows: list[DemoRow]) -> str:
    """The timings as a table."""
    lines = [f"{'prompt':<48} {'stock':>8} {'weft':>8} {'+ maps':>8}  largest pixel difference"]
    for row in rows:
        times = "".join(f" {seconds:6.2f} s" for seconds in (row.stock_s, row.weft_s, row.maps_s))
        lines.append(f"{row.prompt:<48}{times}  {row.largest_difference} of 255")
    return "\n".join(lines)


def _timed(draw: Any, prompt: str, repeats: int) -> tuple[float, Image.Image]:
    """Median seconds of ``repeats`` pictures, and the last one. The pipeline ends with a copy to the host."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        image = draw(prompt)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), image
