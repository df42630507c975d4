"""The judge: a small encoder of images and captions of the shapes world that no training loss of the project uses.

``judge.train`` teaches it. Its features serve distances between sets of images; its embeddings serve retrieval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft._files import whole_file
from weft.shapes.vocabulary import CAPTION_WORDS, COLOURS, IMAGE_SIZE, SHAPES, TASK_WORDS

FOLDER = Path(__file__).parent / "weights"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
WORDS: tuple[str, ...] = (*CAPTION_WORDS, *COLOURS, *SHAPES, *TASK_WORDS)
PADDING, UNKNOWN = 0, 1  # ids; the words follow
MOST_WORDS = 32
_WORD = re.compile(r"[a-z]+|[^a-z\s]")


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes of both encoders.

    Attributes:
        channels: Of the image encoder, at 32, 16 and 8 pixels a side.
        cell_channels: Of its features, in each of two by two cells of the image.
        text_channels, text_layers, text_heads: Of the text encoder.
        embedding: Where images and texts are compared.
    """

    channels: tuple[int, int, int] = (32, 64, 96)
    cell_channels: int = 48
    text_channels: int = 64
    text_layers: int = 2
    text_heads: int = 4
    embedding: int = 64


class ImageEncoder(nn.Module):
    """Images to features: what each quarter of the image shows, with mean 0 and variance 1 over real scenes."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        first, second, third = config.channels
        self.layers = nn.Sequential(
            *_convolution(3, first, stride=2),
            *_convolution(first, second, stride=2),
            *_convolution(second, third, stride=2),
            *_convolution(third, third),
            *_convolution(third, third),
            nn.Conv2d(third, config.cell_channels, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(4 * config.cell_channels, affine=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, 64, 64] in [-1, 1] to [B, D]."""
        features: Tensor = self.layers(images)
        return features


class TextEncoder(nn.Module):
    """Words to an embedding: a transformer, and the mean over words."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        width = config.text_channels
        self.words = nn.Embedding(UNKNOWN + 1 + len(WORDS), width, padding_idx=PADDING)
        self.places = nn.Parameter(0.02 * torch.randn(MOST_WORDS, width))
        layer = nn.TransformerEncoderLayer(
            width, config.text_heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.text_layers, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.embedding))

    def forward(self, ids: Tensor) -> Tensor:
        """[B, L] int64, ``PADDING`` where a text is shorter, to [B, embedding]."""
        padded = ids == PADDING
        states = self.layers(self.words(ids) + self.places[: ids.shape[1]], src_key_padding_mask=padded)
        there = (~padded).unsqueeze(-1).to(states.dtype)
        embedding: Tensor = self.out((states * there).sum(1) / there.sum(1))
        return embedding


class Judge(nn.Module):
    """Both encoders and the temperature that they were taught with."""

    def __init__(self, config: JudgeConfig = JudgeConfig()) -> None:
        super().__init__()
        self.config = config
        self.image = ImageEncoder(config)
        features = 4 * config.cell_channels
        self.head = nn.Sequential(nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, config.embedding))
        self.text = TextEncoder(config)
        self.log_temperature = nn.Parameter(torch.tensor(0.1).log())

    @property
    def num_features(self) -> int:
        return 4 * self.config.cell_channels

    def embed_images(self, features: Tensor) -> Tensor:
        """Features [B, D] to embeddings of length 1, [B, E]."""
        return F.normalize(self.head(features), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Captions to embeddings of length 1, [B, E]."""
        return F.normalize(self.text(ids_of(texts).to(self.log_temperature.device)), dim=1)

    def save(self, folder: Path, **about: Any) -> None:
        """Write weights as float16, and sizes with the further entries of ``about``."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: x.half() if x.is_floating_point() else x for name, x in self.state_dict().items()}
        with whole_file(folder / WEIGHTS) as temporary:
            save_file({name: x.contiguous() for name, x in state.items()}, temporary)
        with whole_file(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps({"sizes": asdict(self.config), **about}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Judge:
        """Read what ``save`` wrote, in float32 and ready to judge.

        Raises:
            FileNotFoundError: It is not there.
        """
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(
                f"weft.evaluation: no judge in {folder}; reinstall weft with its package data, or train one with "
                f"`python -m weft.evaluation.judge.train --out {folder}`"
            )
        sizes = json.loads((folder / CONFIG).read_text())["sizes"]
        judge = cls(JudgeConfig(**{**sizes, "channels": tuple(sizes["channels"])}))
        judge.load_state_dict(load_file(folder / WEIGHTS))
        return judge.eval().requires_grad_(False)


def ids_of(texts: Sequence[str]) -> Tensor:
    """Words by number, [B, L] int64; what is not of the shapes world is ``UNKNOWN``."""
    rows = [[_IDS.get(word, UNKNOWN) for word in _WORD.findall(text.lower())][:MOST_WORDS] for text in texts]
    longest = max(1, *map(len, rows)) if rows else 1
    # of an empty text one unknown word remains: a mean over no words is none
    padded = [(row or [UNKNOWN]) + [PADDING] * (longest - max(1, len(row))) for row in rows]
    return torch.tensor(padded, dtype=torch.int64)


_IDS = {word: number for number, word in enumerate(WORDS, UNKNOWN + 1)}
SIZE = IMAGE_SIZE  # pixels a side of what it looks at


def _convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
