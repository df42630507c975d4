"""A vision model of the transformers library as a source of features: CLIP, DINO, SigLIP or another, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_PROCESSOR = "preprocessor_config.json"


class VisionFeatures:
    """Features of pictures, as a frozen model sees them.

    Attributes:
        name: The folder, by which runs know the source.
    """

    def __init__(self, model: Any, *, size: int, mean: Tensor, std: Tensor, outputs: Sequence[str], name: str) -> None:
        """``model`` takes ``pixel_values`` [B, 3, size, size], from which ``mean`` was taken, over ``std``.

        The first of ``outputs`` that it gives are the features; of patches their mean.
        """
        self.name, self._outputs = name, outputs
        self._model = model.eval().requires_grad_(False)
        self._size, self._mean, self._std = size, mean.view(3, 1, 1), std.view(3, 1, 1)

    def __call__(self, pictures: Tensor) -> Tensor:
        """[B, D] of pictures [B, 3, h, w] in [-1, 1], of any size: projected, pooled, or the mean of all patches.

        The model moves to their device.
        """
        self._model.to(pictures.device)
        pixels = F.interpolate(pictures.float(), (self._size, self._size), mode="bicubic", antialias=True)
        pixels = ((pixels + 1) / 2 - self._mean.to(pixels)) / self._std.to(pixels)
        found = self._model(pixel_values=pixels.to(self._model.dtype))
        features: Tensor = next(
            getattr(found, name) for name in self._outputs if getattr(found, name, None) is not None
        )
        return features.mean(1) if features.ndim == 3 else features.flatten(1)


def vision_features(folder: str | Path) -> VisionFeatures:
    """The model in ``folder``, as ``save_pretrained`` of the model and of its image processor left it.

    Raises:
        FileNotFoundError: No such folder, or one without the files of a model or processor.
        ValueError: A model that looks at no pictures, or lacks weights.
    """
    from transformers import AutoConfig, AutoModel, CLIPVisionModelWithProjection, SiglipVisionModel

    folder = Path(folder)
    for name in ("config.json", _PROCESSOR):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"vision_features: a folder of a vision model must hold {name}; there is none in {folder}; save the "
                "model and its image processor there by save_pretrained, or fetch them by `hf download ID --local-dir "
                "FOLDER`, for no model id is looked up"
            )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    # of a model of pictures and texts the half that sees
    halves = {"clip": CLIPVisionModelWithProjection, "siglip": SiglipVisionModel}
    halves["clip_vision_model"] = CLIPVisionModelWithProjection
    kind = halves.get(config.model_type, AutoModel)
    vision = getattr(config, "vision_config", config)
    if not hasattr(vision, "image_size"):
        raise ValueError(f"vision_features: needs a model of pictures; {folder} holds one of kind {config.model_type}")
    processor = json.loads((folder / _PROCESSOR).read_text(encoding="utf-8"))
    mean, std = (torch.tensor(processor.get(f"image_{name}", [0.5] * 3)) for name in ("mean", "std"))
    # safetensors only: a pickled checkpoint can run code when it is read
    local = {"local_files_only": True, "use_safetensors": True}
    model, report = kind.from_pretrained(folder, output_loading_info=True, **local)
    lacking = set(report["missing_keys"])
    if others := {name for name in lacking if not name.startswith("pooler.")}:
        raise ValueError(
            f"vision_features: {folder} must hold all weights of {type(model).__name__}; {len(others)} are missing, "
            f"such as {min(others)}"
        )
    # a pooler that was not saved would be random
    outputs = ("image_embeds", *(() if lacking else ("pooler_output",)), "last_hidden_state")
    return VisionFeatures(model, size=int(vision.image_size), mean=mean, std=std, outputs=outputs, name=str(folder))
