"""A trained generator: captions in, pictures out; and the folder that keeps it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weft._files import whole_file, whole_folder
from weft.train.gan.attn import AttnGenerator
from weft.train.gan.config import Baseline, Recipe, Weights
from weft.train.gan.ranks import BatchNorm
from weft.train.gan.ssa import SsaGenerator
from weft.train.gan.text import Pretrained, Recurrent, Vocabulary

WEIGHTS, RECORD, TEXT = "generator.safetensors", "config.json", "text"
AT_ONCE = 64  # pictures of one pass


class Generator:
    """Draws what captions say, in one pass.

    Args:
        network: Noise and text to pictures.
        text: Encodes captions.
        record: What makes the same network again, as ``network_of`` takes it.
    """

    def __init__(self, network: nn.Module, text: Recurrent | Pretrained, record: dict[str, Any]) -> None:
        self.network, self.text, self.record = network.eval(), text.eval(), record

    @property
    def resolution(self) -> int:
        """Pixels of a side."""
        return int(self.record["resolution"])

    @property
    def taught_by(self) -> tuple[str, ...]:
        """Digests of pretrained encoders that took part in training, as ``digest_of_weights`` of each."""
        return tuple(self.record.get("taught_by", ()))

    @property
    def knows_teachers(self) -> bool:
        """Whether these are all; not where losses or the matching model look through an object of the user's."""
        return bool(self.record.get("knows_teachers", False))

    @property
    def noise_width(self) -> int:
        """Numbers of noise that a picture is made of."""
        return int(self.network.noise_width)  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], noise: Tensor | torch.Generator | None = None) -> Tensor:
        """A picture of each caption.

        Args:
            noise: N(0, 1), [B, noise_width]; or what draws it; None for torch's own.

        Returns:
            [B, 3, h, w] fp32 in [-1, 1], on the generator's device.

        Raises:
            TypeError: One text instead of several.
            ValueError: No caption, or noise of another shape.
        """
        if isinstance(captions, str):
            raise TypeError("Generator: `captions` must be a sequence of texts; got one text; give [text]")
        if not captions:
            raise ValueError("Generator: needs at least one caption; got none")
        shape = (len(captions), self.noise_width)
        if not isinstance(noise, Tensor):
            noise = torch.randn(shape, generator=noise)
        if tuple(noise.shape) != shape:
            raise ValueError(f"Generator: `noise` must be {list(shape)}; got {list(noise.shape)}")
        device = next(self.network.parameters()).device
        found = []
        for first in range(0, len(captions), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            text = self.text(self.text.numbers(captions[part]).to(device))
            found.append(self.network(noise[part].to(device), text).image.float())
        return torch.cat(found)

    def pictures(self, captions: Sequence[str], seed: int = 0) -> list[Image.Image]:
        """The same as PIL images, from noise of a seed."""
        drawn = self(captions, torch.Generator().manual_seed(seed))
        return [Image.fromarray(pixels) for pixels in as_bytes(drawn)]

    def to(self, device: torch.device | str) -> Generator:
        """On another device, in place."""
        self.network.to(device)
        self.text.to(device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write ``generator.safetensors`` and ``config.json``; a pretrained text encoder goes to ``text``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        record: dict[str, Any] = {**self.record, "length": _length(self.text)}
        if isinstance(self.text, Recurrent):
            record |= {"words": list(self.text.vocabulary.words), "embedding": self.text.embedding.embedding_dim}
            tensors |= {f"text.{key}": value for key, value in self.text.state_dict().items()}
        else:
            with whole_folder(folder / TEXT) as made:
                self.text.model.save_pretrained(made)
                self.text.tokenizer.save_pretrained(made)
            own = self.text.state_dict()
            tensors |= {f"text.{key}": value for key, value in own.items() if not key.startswith("model.")}
        with whole_file(folder / WEIGHTS) as path:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
        with whole_file(folder / RECORD) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Generator:
        """What ``save`` wrote.

        Raises:
            FileNotFoundError: There is none in ``folder``.
            ValueError: Its files say something else.
        """
        folder = Path(folder)
        for name in (WEIGHTS, RECORD):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"Generator: there is no {name} in {folder}; give the folder of a trained one")
        try:
            record = json.loads((folder / RECORD).read_text())
            tensors = load_file(folder / WEIGHTS)
            network, width, length = network_of(record), int(record["text_width"]), int(record["length"])
            text: Recurrent | Pretrained
            if "words" in record:
                vocabulary = Vocabulary(record.pop("words"), length)
                text = Recurrent(vocabulary, width=width, embedding=record.pop("embedding"), dropout=0.0)
            else:
                from weft.train.gan.pretrained import load_text

                text = Pretrained(*load_text(folder / TEXT), width=width, length=length)
            _fill(network, tensors, "network.")
            _fill(text, tensors, "text.")
        except (KeyError, TypeError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(f"Generator: {folder} holds no generator that can be read: {error}") from error
        return cls(network, text, record)


def network_of(record: dict[str, Any]) -> SsaGenerator | AttnGenerator:
    """A generator of a ``baseline``, ``resolution``, ``text_width`` and ``recipe``."""
    baseline: Baseline = record["baseline"]
    recipe = Recipe(**{**record["recipe"], "weights": Weights(**record["recipe"]["weights"])})
    if baseline == "ssa":
        return SsaGenerator(
            record["resolution"],
            width=recipe.generator_width,
            noise=recipe.noise,
            sentence=record["text_width"],
            hidden=recipe.hidden,
            mask_width=recipe.mask_width,
        )
    return AttnGenerator(
        record["resolution"],
        stages=recipe.stages,
        width=recipe.generator_width,
        noise=recipe.noise,
        words=record["text_width"],
        residuals=recipe.residuals,
        style_blocks=recipe.style_blocks,
    )


@torch.no_grad()
def averaged(
    network: nn.Module, average: dict[str, Tensor] | None, batches: Sequence[tuple[Tensor, Any]]
) -> nn.Module:
    """A copy with other parameters, whose running statistics are those of ``batches``.

    The statistics that training has gathered belong to the last parameters, not to their average.

    Args:
        average: By name in ``network``; None for its own.
        batches: Noise and text.
    """
    copied = copy.deepcopy(network)
    if average is not None:
        copied.load_state_dict({**copied.state_dict(), **average})
    norms = [module for module in copied.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.is_alone = None, True  # the plain mean over batches
    copied.train()
    for noise, text in batches:
        copied(noise, text)
    for norm in norms:
        norm.momentum, norm.is_alone = 0.1, False
    return copied.eval()


def as_bytes(images: Tensor) -> Any:
    """[B, 3, h, w] in [-1, 1] to uint8 [B, h, w, 3] in memory of the CPU."""
    return (images.float().clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _length(text: Recurrent | Pretrained) -> int:
    return text.vocabulary.length if isinstance(text, Recurrent) else text.length


def _fill(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Load what belongs to ``module``; only a pretrained model may come from elsewhere."""
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    missing, unexpected = module.load_state_dict(own, strict=False)
    missing = [key for key in missing if not key.startswith("model.")]
    if missing or unexpected:
        raise ValueError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")
