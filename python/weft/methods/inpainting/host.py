"""What a pipeline must be for its calls to be filled holes, and the sizes that its model works at."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from weft.attach import resolve
from weft.methods.inpainting.window import ModelSize

# arguments of a call that do what weft does around it
_IN_THE_WAY = ("padding_mask_crop", "masked_image_latents")


def check_host(pipe: Any, *, who: str) -> None:
    """Refuse what is not a pipeline for inpainting with a UNet that sees mask and masked picture.

    Raises:
        TypeError: No pipeline.
        ValueError: Another pipeline, or another UNet.
    """
    _check_pipeline(pipe, who)
    channels, wanted = pipe.unet.config.in_channels, 2 * pipe.vae.config.latent_channels + 1
    if channels != wanted:
        raise ValueError(
            f"{who}: needs a UNet made for inpainting, with {wanted} input channels (latents, mask, masked picture); "
            f"this one has {channels}, as of a text-to-image model; load an inpainting checkpoint, or make one of "
            "this: weft.train.inpainting_pipeline widens it and weft.train.fit_task_prompts trains it, as does "
            "`weft train task-prompts`"
        )


def check_host_of_branch(pipe: Any, *, who: str) -> None:
    """Refuse what is not a pipeline for inpainting with a UNet that sees the noisy latents alone.

    Raises:
        TypeError: No pipeline.
        ValueError: Another pipeline, or another UNet.
    """
    _check_pipeline(pipe, who)
    channels, latent = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if channels != latent:
        raise ValueError(
            f"{who}: needs the UNet of a text-to-image model, with {latent} input channels, since the branch beside "
            f"it sees mask and masked picture; this one has {channels}, as of an inpainting model; load the pipeline "
            "from a text-to-image checkpoint; for an inpainting model there is weft.TaskPrompts (PowerPaint v1)"
        )


def _check_pipeline(pipe: Any, who: str) -> None:
    if pipe is None or not hasattr(pipe, "encode_prompt"):
        raise TypeError(f"{who}: needs a pipeline, for its text encoder; attach the pipeline, not its UNet")
    if "mask_image" not in inspect.signature(type(pipe).__call__).parameters:
        raise ValueError(
            f"{who}: needs an inpainting pipeline, which takes a picture and a mask; {type(pipe).__name__} takes "
            "neither; load the model with StableDiffusionInpaintPipeline or StableDiffusionXLInpaintPipeline"
        )
    if getattr(pipe, "unet", None) is None:
        raise ValueError(
            f"{who}: needs a pipeline of Stable Diffusion 1.x, 2.x or XL; {type(pipe).__name__} has no UNet"
        )


def model_size(pipe: Any) -> ModelSize:
    """The side of the model's own pictures, and of a cell of its latent, in pixels."""
    host = resolve(pipe)
    return ModelSize(host.native_size, host.pixels_per_cell)


def without_empty_texts(arguments: Mapping[str, Any], *, who: str) -> dict[str, Any]:
    """Arguments of a call with embeddings, less the empty prompts beside them, which diffusers refuses.

    Raises:
        ValueError: A prompt that says something beside embeddings, or an argument that pasting back does not allow.
    """
    found = dict(arguments)
    for name, embeddings, instead in (
        ("prompt", "prompt_embeds", "as `text`"),
        ("prompt_2", "prompt_embeds", "as `text`"),
        ("negative_prompt", "negative_prompt_embeds", "as `negative`"),
        ("negative_prompt_2", "negative_prompt_embeds", "as `negative`"),
    ):
        if found.get(embeddings) is None or found.get(name) is None:
            continue
        text = found.pop(name)
        if any(part.strip() for part in ([text] if isinstance(text, str) else text)):
            raise ValueError(
                f"{who}: `{name}` must be empty beside the embeddings of a task; got {text!r}; give it to the task's "
                f"method, {instead}"
            )
    return found


def check_not_in_the_way(arguments: Mapping[str, Any], *, who: str) -> None:
    """Refuse arguments that do what pasting back does.

    Raises:
        ValueError: One is given.
    """
    for name in _IN_THE_WAY:
        if arguments.get(name) is not None:
            raise ValueError(
                f"{who}: `{name}` cannot be used where weft cuts the picture and pastes it back, or shows it to a "
                "branch; leave it out, or for task prompts alone set `paste_back` to None"
            )
