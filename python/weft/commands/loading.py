"""A pipeline from what a user types: nothing for the embedded model, else another of these, a folder or a model id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft._device import dtype_argument

if TYPE_CHECKING:
    import torch

    from weft.shapes.shipped import Model

_HUB_TIMEOUT = 10  # seconds
EMBEDDED = "embedded"
# what a user calls the shipped models, and ``weft.shapes``: a UNet, and a joint transformer as in Stable Diffusion 3
EMBEDDED_MODELS: dict[str, Model] = {EMBEDDED: "sd1", "embedded-sd3": "sd3"}


def load_pipeline(model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The text-to-image pipeline of ``model`` on ``device``.

    Args:
        model: "embedded" or "embedded-sd3", a diffusers folder, or a model id that diffusers finds in its cache or
            fetches. A Stable Diffusion 3 may come without its T5.

    Raises:
        ValueError: It is none of these, or its weights are not safetensors.
    """
    if model in EMBEDDED_MODELS:
        from weft import shapes

        return shapes.pipeline(EMBEDDED_MODELS[model], dtype, device)
    from diffusers import AutoPipelineForText2Image

    return _open(AutoPipelineForText2Image, model, dtype, EMBEDDED_MODELS).to(device)


def own_side(pipe: Any) -> int:
    """Pixels of a side of the pictures that the model of ``pipe`` was made for."""
    cells = (getattr(pipe, "unet", None) or pipe.transformer).config.sample_size
    return int(cells if isinstance(cells, int) else min(cells)) * int(pipe.vae_scale_factor)


def load_inpainting(model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The inpainting pipeline of ``model`` on ``device``.

    Args:
        model: "embedded", a diffusers folder, or a model id that diffusers finds in its cache or fetches.

    Raises:
        ValueError: It is none of these, or its weights are not safetensors.
    """
    if model == EMBEDDED:
        from weft import shapes

        return shapes.pipeline("inpainting", dtype, device)
    if model in EMBEDDED_MODELS:
        raise ValueError(
            f"--model: {model} does not inpaint; give {EMBEDDED!r}, a folder that `weft train task-prompts` made, or "
            "a diffusers folder or model id of an inpainting model"
        )
    from diffusers import AutoPipelineForInpainting

    return _open(AutoPipelineForInpainting, model, dtype, (EMBEDDED,)).to(device)


def _open(kind: Any, model: str, dtype: torch.dtype, shipped: Iterable[str]) -> Any:
    """The pipeline of class ``kind`` that diffusers makes of a folder or a model id; ``shipped`` are named beside."""
    folder = Path(model).expanduser()
    looks_like_path = folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1
    if folder.exists() or looks_like_path:
        if not (folder / "model_index.json").is_file():
            found = (
                "has no model_index.json" if folder.is_dir() else "is a file" if folder.exists() else "is not there"
            )
            raise ValueError(
                f"--model: must be {' or '.join(map(repr, shipped))}, a diffusers folder or a model id such "
                f"as owner/name; {folder} {found}"
            )
        model = str(folder)
    else:
        _check_reachable(model)
    try:
        index = kind.load_config(model)
        # a part listed as absent, such as a T5, must be refused by name or the loader asks for it
        absent = {name: None for name, part in index.items() if part == [None, None]}
        # safetensors only: a pickled checkpoint can run code when it is read
        return kind.from_pretrained(model, use_safetensors=True, **dtype_argument(dtype), **absent)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {model}: diffusers cannot load it: {_first_line(error)}") from error


def _check_reachable(model: str) -> None:
    """Refuse a model id that is not in the cache, where no hub answers or the hub does not have it.

    diffusers would ask six times, wait half a minute, and then speak of a missing file.
    """
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # where nothing answers, the error is of the client's HTTP library, which differs between versions (requests,
    # httpx, ...): an OSError, or of the class that the client's own error is derived from
    of_transport: Any = HfHubHTTPError.__bases__[0]
    try:
        if isinstance(try_to_load_from_cache(model, "model_index.json"), str):
            return
        model_info(model, timeout=_HUB_TIMEOUT)
    except HFValidationError as error:
        raise ValueError(f"--model {model}: is no folder here and no model id such as owner/name") from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"--model {model}: is no folder here, and the hub does not give a model of that id "
            f"({_first_line(error)}); check its spelling, and log in by `hf auth login` if it is private"
        ) from error
    except (OSError, of_transport) as error:
        raise ValueError(
            f"--model {model}: is no folder here and not in the cache of downloaded models, and the hub cannot be "
            f"reached ({_first_line(error)}); fetch it where there is a network, by `hf download {model} --local-dir "
            "FOLDER`, and give that folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
