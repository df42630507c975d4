"""Maps of tokens, and pictures of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods._shown_picture import as_picture

if TYPE_CHECKING:
    from PIL import Image

Token = str | int

_OVERLAY = 0.6  # share of the heat map at its hottest point; 0 where it is cold
_SMALLEST_SIDE = 256  # pixels, of a picture without an image below it
_CAPTION = 18  # pixels
_GRID = "TokenMaps.grid: `images`"


class TokenMaps(Mapping[Token, Tensor]):
    """One map per token: ``maps["circle"]``, fp32, [images, h, w].

    Axes that were not averaged come first, layers before steps: [layers, steps, images, h, w] at most.

    Attributes:
        layers: Names along the layer axis; empty when it was averaged.
        steps: Indices along the step axis; empty when it was averaged.
        padding: The share of the text's attention that goes to padding, of the shape of a map, where maps are shares
            of the other tokens; None where there is none, or maps are shares of all.
        reads: Layer -> the number of steps in which it was read. Caches that skip blocks (FirstBlockCache, TaylorSeer)
            leave some out, and maps are means over what ran.
    """

    def __init__(
        self,
        maps: dict[Token, Tensor],
        *,
        layers: tuple[str, ...] = (),
        steps: tuple[int, ...] = (),
        padding: Tensor | None = None,
        reads: Mapping[str, int] | None = None,
    ) -> None:
        self._maps = maps
        self.padding = padding
        self.reads = dict(reads or {})
        self.layers = layers
        self.steps = steps

    def __getitem__(self, token: Token) -> Tensor:
        try:
            return self._maps[token]
        except KeyError:
            known = ", ".join(map(repr, self._maps))
            raise KeyError(f"no map of {token!r} was read; there are {known}") from None

    def __iter__(self) -> Iterator[Token]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def __repr__(self) -> str:
        shape = list(next(iter(self._maps.values())).shape)
        steps = sorted(set(self.reads.values()))
        read = (
            f", read in {' to '.join(str(count) for count in dict.fromkeys((steps[0], steps[-1])))} steps"
            if steps
            else ""
        )
        return f"TokenMaps({', '.join(map(repr, self._maps))}; each {shape}{read})"

    def image(self, token: Token, over: Any = None, index: int = 0) -> Image.Image:
        """Draw one map as heat, alone or over the image it belongs to.

        Args:
            token: One of the tokens.
            over: The image made, a PIL image, an array [h, w, C] or a tensor [C, h, w] (uint8, or floats from 0 to 1);
                the picture has its size.
            index: Which image of the batch the map is of.

        Raises:
            KeyError: A token that was not read.
            IndexError: No such image.
            TypeError, ValueError: ``over`` is no such image.
        """
        heat = self._heat(token, index)
        if over is None:
            times = -(-_SMALLEST_SIDE // min(heat.shape))
            size = (heat.shape[0] * times, heat.shape[1] * times)
        else:
            over = as_picture(over, who="TokenMaps.image: `over`")
            size = (over.height, over.width)
        heat = F.interpolate(heat[None, None], size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
        colours = _colours(heat)  # [h, w, 3] in [0, 1]
        if over is not None:
            share = _OVERLAY * heat.sqrt()[..., None]
            colours = share * colours + (1 - share) * _to_tensor(over)
        return _to_image(colours)

    def grid(self, images: Any = None) -> Image.Image:
        """One sheet: a row per image, with the image itself and the map of every token over it, and captions.

        Args:
            images: The images made, one per map, each as ``image`` takes it; a sequence, or a batch as one array or
                tensor; None to draw the maps alone.

        Raises:
            TypeError: No such images.
            ValueError: Not as many images as maps.
        """
        rows = next(iter(self._maps.values())).shape[-3]
        listed = None if images is None else [as_picture(image, who=_GRID) for image in _listed(images)]
        if listed is not None and len(listed) != rows:
            raise ValueError(f"TokenMaps.grid: `images` must be the {rows} images of the maps; got {len(listed)}")
        pictures = [
            ([] if listed is None else [("image", listed[row])])
            + [(str(token), self.image(token, None if listed is None else listed[row], row)) for token in self]
            for row in range(rows)
        ]
        return _sheet(pictures)

    def _heat(self, token: Token, index: int) -> Tensor:
        """The map of one image, [h, w], from 0 to 1; axes that were kept are averaged."""
        maps = self[token].detach().float().cpu()
        maps = maps.reshape(-1, *maps.shape[-3:]).mean(0)
        if not -len(maps) <= index < len(maps):
            raise IndexError(f"TokenMaps.image: `index` must be below the {len(maps)} images; got {index}")
        heat = maps[index] - maps[index].min()
        largest = heat.max()
        return heat / largest if largest > 0 else heat


def _listed(images: Any) -> list[Any]:
    """The images of a sequence or of a batch; one alone is a batch of one."""
    is_batch = isinstance(images, Sequence) or getattr(images, "ndim", 0) == 4
    return list(images) if is_batch else [images]


def _colours(heat: Tensor) -> Tensor:
    import cv2

    ramp = torch.arange(256, dtype=torch.uint8)[:, None].numpy()
    table = torch.from_numpy(cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO))[:, 0].flip(-1)  # it writes blue first
    return table[(heat * 255).round().long()].float() / 255


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).float() / 255


def _to_image(pixels: Tensor) -> Image.Image:
    from PIL import Image

    bytes_ = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
    return Image.frombytes("RGB", (pixels.shape[1], pixels.shape[0]), bytes_.numpy().tobytes())


def _sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Captioned pictures on white; each column is as wide as its caption needs."""
    from PIL import Image, ImageDraw

    gap = 6
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widths = [
        max(max(picture.width, int(ruler.textlength(caption)) + 2) for caption, picture in column)
        for column in zip(*rows, strict=True)
    ]
    heights = [max(picture.height for _, picture in row) + _CAPTION for row in rows]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(rows) + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for (caption, picture), width in zip(row, widths, strict=True):
            draw.text((x, y), caption, fill="black")
            sheet.paste(picture, (x, y + _CAPTION))
            x += width + gap
        y += height + gap
    return sheet
