"""Images to features: the judge of the shapes world, a vision model from a folder, or a module of the user.

Whatever it is, it is there already: no extractor is ever fetched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from weft.evaluation.digests import digest_of, digests_of
from weft.evaluation.judge import SIZE, Judge
from weft.evaluation.words import SHAPES, given_folder, is_word
from weft.train.core import lacks_pooler

Images = Sequence[Image.Image]


@dataclass(frozen=True, eq=False)
class Extractor:
    """What makes features of images, and what a reader of its numbers must know.

    Attributes:
        name: Of it.
        features: RGB images to [B, D] on the CPU.
        resize: What happens to images before.
        weights: Digest of its weights; empty where they are not known.
        shared: Features [B, D] to the space of ``texts``; None where the model knows no texts.
        texts: Captions to embeddings there.
        digests: Of its modules, as training keeps those of its teachers (``digests_of``); none where not known.
    """

    name: str
    features: Callable[[Images], Tensor]
    resize: str
    weights: str = ""
    shared: Callable[[Tensor], Tensor] | None = None
    texts: Callable[[Sequence[str]], Tensor] | None = None
    digests: frozenset[str] = frozenset()

    def about(self) -> dict[str, str]:
        """For a record."""
        return {"name": self.name, "resize": self.resize, "weights": self.weights}


def open_extractor(name: str | Path, device: torch.device | str = "cpu") -> Extractor:
    """``judge_extractor`` for the text "shapes", else ``folder_extractor``."""
    if is_word(name, [SHAPES], option="--extractor"):
        return judge_extractor(device=device)
    return folder_extractor(Path(name), device)


def judge_extractor(judge: Judge | None = None, device: torch.device | str = "cpu") -> Extractor:
    """The judge of the shapes world; the shipped one if none is given."""
    judge = (judge or Judge.load()).to(device)

    @torch.no_grad()
    def features(images: Images) -> Tensor:
        for image in images:
            if image.size != (SIZE, SIZE):
                raise ValueError(
                    f"evaluate: the extractor 'shapes' looks at images of {SIZE} x {SIZE} pixels; got "
                    f"{image.width} x {image.height}; name the folder of another with --extractor"
                )
        return judge.image(_stacked(images).to(device)).float().cpu()

    def shared(found: Tensor) -> Tensor:
        return judge.embed_images(found.to(device)).cpu()

    def texts(captions: Sequence[str]) -> Tensor:
        return judge.embed_texts(captions).cpu()

    return Extractor(SHAPES, features, "none", digest_of(judge), shared, texts, digests_of(judge))


def module_extractor(
    module: Callable[[Tensor], Tensor],
    *,
    name: str,
    size: int | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """An extractor of a module.

    Args:
        module: [B, 3, h, w] in [-1, 1] to [B, D]. An ``nn.Module`` is put on ``device`` in evaluation mode.
        name: In records.
        size: Pixels a side that images are resized to, by Pillow's bicubic filter; None: all must have one size.
        device: Where images are put.
    """
    if isinstance(module, nn.Module):
        module = module.to(device).eval()

    @torch.no_grad()
    def features(images: Images) -> Tensor:
        if size is not None:
            images = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
        found = module(_stacked(images).to(device))
        if found.ndim != 2 or len(found) != len(images):
            raise ValueError(
                f"evaluate: the extractor {name!r} must give [{len(images)}, D] for {len(images)} images; it gave "
                f"{tuple(found.shape)}"
            )
        return found.float().cpu()

    resize = "none" if size is None else f"{size} x {size}, Pillow bicubic"
    if not isinstance(module, nn.Module):
        return Extractor(name, features, resize)
    return Extractor(name, features, resize, digest_of(module), digests=digests_of(module))


def folder_extractor(folder: Path, device: torch.device | str = "cpu") -> Extractor:
    """A vision model of transformers, such as CLIP or DINOv2, from a folder with its image processor.

    A model that embeds texts beside images, such as CLIP, needs its tokenizer there and serves retrieval, too; of
    others the pooled output is taken, else that of the first token.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: It holds no such model.
    """
    folder = given_folder(folder, [SHAPES], option="--extractor", what="a vision model of transformers")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"evaluate: --extractor must be {SHAPES!r} or a folder of a vision model of transformers; {folder} has no "
            "config.json"
        )
    model, processor, tokenizer = _parts(folder)
    # what training kept in half precision is known by its digest in that, or after older versions in single
    digests = digests_of(model)
    model = model.float().to(device).eval()
    digests |= digests_of(model)

    @torch.no_grad()
    def features(images: Images) -> Tensor:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"].to(device)
        if hasattr(model, "get_image_features"):
            return _tensor(model.get_image_features(pixel_values=pixels)).float().cpu()
        found = model(pixel_values=pixels)
        pooled = getattr(found, "pooler_output", None)
        # of some convolutional networks it has two more axes of length 1
        return (found.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)).float().cpu()

    # SigLIP looks at the last place of a row: its token must not depend on the other rows
    padding = "max_length" if model.config.model_type.startswith("siglip") else True

    @torch.no_grad()
    def texts(captions: Sequence[str]) -> Tensor:
        ids = [tokenizer(text)["input_ids"] for text in captions]
        if cut := sum(len(one) > tokenizer.model_max_length for one in ids):
            warnings.warn(f"evaluate: {cut} of {len(ids)} captions are cut to the length of {folder}", stacklevel=2)
        tokens = tokenizer(list(captions), padding=padding, truncation=True, return_tensors="pt").to(device)
        return _tensor(model.get_text_features(**tokens)).float().cpu()

    resize = f"{type(processor).__name__} {getattr(processor, 'crop_size', None) or getattr(processor, 'size', None)}"
    about = Extractor(folder.name, features, resize, digest_of(model), digests=digests)
    return about if tokenizer is None else replace(about, shared=lambda found: found, texts=texts)


def _parts(folder: Path) -> tuple[Any, Any, Any]:
    """Model, image processor, and a tokenizer if the model knows texts."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    local = {"local_files_only": True}
    try:
        # safetensors only: a pickled checkpoint can run code when it is read
        model, report = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **local)
        if lacks_pooler(model, report):
            model.pooler = None
        processor = AutoImageProcessor.from_pretrained(folder, **local)
        known = hasattr(model, "get_text_features")
        return model, processor, AutoTokenizer.from_pretrained(folder, **local) if known else None
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"evaluate: --extractor {folder}: transformers cannot load it: {first_line}") from error


def _tensor(found: Any) -> Tensor:
    # transformers 4 gives the tensor itself
    tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return tensor


def _stacked(images: Images) -> Tensor:
    """[B, 3, h, w] in [-1, 1]."""
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        found = ", ".join(f"{width} x {height}" for width, height in sorted(sizes)[:3])
        raise ValueError(f"evaluate: images must have one size where the extractor does not resize; got {found}")
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
