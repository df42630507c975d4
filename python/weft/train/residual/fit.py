"""``fit_residual``: teach a frozen model one concept from a few pictures (Personalized Residuals)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from weft.attach import GatedProjections, base_model, resolve
from weft.methods.residuals import Residual
from weft.train.core import fit, make_accelerator, sampling_of, validation
from weft.train.diffusion import (
    check_denoiser,
    check_words,
    encode_views,
    frozen,
    latent_batches,
    noising_of,
    picture_size,
)
from weft.train.distribution import ConceptBatches, distribution_term
from weft.train.pictures import digest_of_views, read_images, views
from weft.train.residual.config import ResidualConfig
from weft.train.residual.objective import ResidualObjective


def fit_residual(
    pipe: Any,
    images: Any,
    class_word: str,
    identifier: str = "V*",
    *,
    config: ResidualConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    base_name: str | None = None,
) -> Residual:
    """Learn what ``images`` show, as low-rank factors of the layers that end the blocks of the denoiser.

    The model stays frozen and is given back as it was. There are no regularisation images. Latents and text are
    encoded once.

    Args:
        pipe: A Stable Diffusion 1.x, 2.x, XL or Flux pipeline of diffusers. With fp16 weights train on a GPU.
        images: A folder, or a sequence of files or PIL images, of one concept; four to eight are plenty.
        class_word: What the concept is one of: "dog".
        identifier: Names the concept in prompts, before the class word. The tokenizer reads it unchanged, and its
            embedding is not trained (the paper's parameters are the factors alone); the text must not be one that
            means something to the model already, as "V*" and "sks" do not.
        config: Numbers; None for the paper's.
        folder: Keeps checkpoints, log and validation pictures. None keeps nothing, and then Ctrl-C raises at once.
        resume: Go on from the checkpoint in ``folder``; on a CPU with the same bits as if nothing had happened.
        accelerator: Device, precision and processes; None makes one for the device of ``pipe``.
        base_name: Name of the model to keep with the result; None for what diffusers remembers.

    Returns:
        The residual, its factors fp32 on the CPU.

    Raises:
        TypeError: Not a pipeline, or images that are none.
        FileNotFoundError: Images that are not there.
        ValueError: No images, unreadable or tiny ones, a class word or identifier without a token, an option out of
            range, a model of another family, or a checkpoint of another run.
        weft.train.Diverged: The loss is not finite; the last good checkpoint is kept.
        weft.train.Interrupted: Ctrl-C or SIGTERM with ``folder``; the checkpoint has been written.

    Source:
        Ham et al. 2024, arXiv:2405.12978, section 3; AdamW's decay and the distribution of the start are not stated
        there. Its letters are swapped: its A is ``up``, its B is ``down``.
    """
    config = config or ResidualConfig()
    folder = None if folder is None else Path(folder)
    config.check(folder)
    host = resolve(pipe)
    base = base_model(host, base_name)
    check_denoiser(host, who="fit_residual")
    if not base.projections:
        raise ValueError(
            "fit_residual: needs a model whose blocks end in a projection: a UNet of Stable Diffusion, or Flux; got "
            f"{type(host.model).__name__}"
        )
    if config.distribution.losses:
        host.family.feature_layer(host.model)  # refuses a model that the losses cannot look through
    words = {"identifier": identifier, "class_word": class_word}
    caption = _filled(config.caption, words)
    is_paraphrased = config.distribution.pairing == "two_captions"
    captions = [caption, *(_filled(text, words) for text in (config.paraphrases if is_paraphrased else ()))]
    for one in captions:
        check_words(host, words, one, who="fit_residual")
    if accelerator is None:
        accelerator = make_accelerator(pipe.device, config.precision, folder, tensorboard=config.tensorboard)
    size = picture_size(host, config.resolution, who="fit_residual")
    pictures = read_images(images)
    squares = views(pictures, size, crops=config.crops, flip=config.flip, seed=config.seed)
    noising = noising_of(host)
    pipe.to(accelerator.device)
    latents, text = encode_views(pipe, squares), host.encode_captions(captions)

    draw = None
    if config.validate_every is not None and folder is not None:
        draw = validation(
            pipe,
            [_filled(prompt, words) for prompt in config.validation_prompts] or [caption],
            folder / "validation",
            every=config.validate_every,
            last=config.loop.end,
            sampler_steps=config.validation_steps,
            seed=config.seed,
        )

    with GatedProjections(host.model) as projections:
        objective = ResidualObjective(
            host.denoiser,
            projections,
            noising,
            text,
            init=config.init,
            rank_share=config.rank_share,
            seed=config.seed,
        )
        objective.term = distribution_term(
            host, config.distribution, noising, objective.generate, objective.bare, accelerator=accelerator
        )
        batch_at = latent_batches(
            latents,
            noising.times,
            batch_size=config.loop.batch_size,
            seed=config.seed,
            process=accelerator.process_index,
        )
        if objective.term is not None:
            batch_at = ConceptBatches(
                batch_at,
                config.distribution,
                noising,
                views=len(squares),
                of_each=len(squares) // len(pictures),
                captions=len(captions),
                seed=config.seed,
                process=accelerator.process_index,
            )
        with frozen(host.model, config.gradient_checkpointing):
            fit(
                "residual",
                objective,
                batch_at,
                config.loop,
                accelerator,
                folder,
                resume=resume,
                identity={
                    **words,
                    "caption": caption,
                    "base_model": base.name,
                    "images": digest_of_views(squares),
                    "resolution": size,
                    "ranks": [objective.rank(info) for info in base.projections],
                    "init": config.init,
                    "seed": config.seed,
                    **config.distribution.identity(),
                    **({"paraphrases": captions[1:]} if is_paraphrased else {}),
                },
                after_step=draw,
            )
    for tracker in accelerator.trackers:
        tracker.finish()
    down, up = objective.factors()
    is_convolution, sampling = base.projections[0].is_convolution, sampling_of(config, pipe)
    return Residual(
        down, up, identifier, class_word, base.name, base.text_width, is_convolution, sampling, host.family.part
    )


def _filled(text: str, words: dict[str, str]) -> str:
    """``text`` with its two fields filled in; any other brace is text."""
    for name, word in words.items():
        text = text.replace("{" + name + "}", word)
    return text
