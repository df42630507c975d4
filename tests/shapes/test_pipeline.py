"""The shipped models: stock pipelines, small, and good enough to measure methods with."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import JointAttnProcessor2_0
from PIL import Image

import weft
from weft import shapes
from weft.shapes import shipped
from weft.shapes.captions import prompts
from weft.shapes.fitting.captioned import token_ids_of
from weft.shapes.fitting.vae import images_of_scenes
from weft.shapes.measuring import decoded_reader_accuracy, mixed_scenes, quality
from weft.shapes.reader import read
from weft.shapes.rendering import coverage, render
from weft.shapes.world import scene

MAX_BYTES = {"sd1": 16 * 2**20, "sd3": 11 * 10**6, "inpainting": 12 * 10**6}
DENOISER = {"sd1": "diffusion", "sd3": "flow", "inpainting": "inpainting"}
# how the stock class expects what is not there, and of what another model has
STOCK = {
    "sd1": ("StableDiffusionPipeline", ""),
    "sd3": ("StableDiffusion3Pipeline", ", vae=vae, text_encoder_3=None, tokenizer_3=None"),
    "inpainting": ("StableDiffusionInpaintPipeline", ""),
}
# what the stock class is given beside a text
GIVEN = {"inpainting": ", image=Image.new('RGB', (64, 64)), mask_image=Image.new('L', (64, 64), 255)"}


@pytest.fixture(scope="module")
def pipe():
    return shapes.pipeline()


@pytest.fixture(scope="module")
def sd3():
    return shapes.pipeline("sd3")


@pytest.fixture(scope="module")
def inpainting():
    return shapes.pipeline("inpainting")


@pytest.mark.parametrize("model", STOCK)
def test_stock_diffusers_loads_it_without_code_of_ours(model):
    kind, absent = STOCK[model]
    code = (
        f"import sys, torch; from diffusers import AutoencoderKL, {kind} as P; from PIL import Image;"
        f"vae = AutoencoderKL.from_pretrained({str(shapes.model_path() / 'vae')!r}, shift_factor=0.0);"
        f"p = P.from_pretrained({str(shapes.model_path(model))!r}{absent});"
        f"image = p('a red circle', num_inference_steps=2{GIVEN.get(model, '')}).images[0];"
        "assert image.size == (64, 64); assert 'weft' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("model", STOCK)
def test_the_folder_is_small_and_says_how_it_was_made(model):
    folder = shapes.model_path(model)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_BYTES[model]
    assert json.loads((folder / "training.json").read_text())[DENOISER[model]]["last"]["step"] > 1000


def test_the_models_have_one_autoencoder_and_one_vocabulary(pipe, sd3, inpainting):
    ours, other = pipe.vae.state_dict(), sd3.vae.state_dict()
    assert all(torch.equal(ours[name], other[name]) for name in ours)
    assert (pipe.vae.config.shift_factor, sd3.vae.config.shift_factor) == (None, 0.0), "and the second adds it"
    files = [path for folder in shipped.WEIGHTS.values() for path in folder.rglob("*.safetensors")]
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert len(kept) == len(files), "no weights are stored twice"
    vocabulary = pipe.tokenizer.get_vocab()
    assert all(tokenizer.get_vocab() == vocabulary for tokenizer in (sd3.tokenizer, sd3.tokenizer_2))
    assert inpainting.tokenizer.get_vocab() == vocabulary


def test_parts_are_those_of_sd1(pipe):
    assert type(pipe) is StableDiffusionPipeline
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.vae_scale_factor == 4
    heads = {name: processor for name, processor in pipe.unet.attn_processors.items() if "attn2" in name}
    assert len(heads) == 7


def test_parts_are_those_of_sd3(sd3):
    assert type(sd3) is StableDiffusion3Pipeline
    assert sd3.text_encoder_3 is sd3.tokenizer_3 is None
    assert type(sd3.scheduler) is FlowMatchEulerDiscreteScheduler
    assert sd3.tokenizer.model_max_length == 32
    assert sd3.vae_scale_factor == 4
    assert len(sd3.transformer.attn_processors) == 5
    assert {type(processor) for processor in sd3.transformer.attn_processors.values()} == {JointAttnProcessor2_0}


def test_parts_are_those_of_an_inpainting_model(inpainting):
    assert type(inpainting) is StableDiffusionInpaintPipeline
    assert inpainting.unet.config.in_channels == 9
    tasks = weft.TaskPrompts.load(shapes.model_path("inpainting"))
    assert tasks.widths == (128,) and tasks.dialect == "weft"


@torch.no_grad()
def test_the_inpainting_autoencoder_survives_plain_pictures(pipe, inpainting):
    scenes = [scene(0, number, "test") for number in range(8)]
    pictures = images_of_scenes(scenes)
    plain = images_of_scenes(replace(one, objects=()) for one in scenes)

    def levels(vae, images):
        latents = vae.encode(images).latent_dist.mode()
        return 127.5 * float((vae.decode(latents).sample - images).abs().mean()), latents

    assert levels(inpainting.vae, plain)[0] < 2 and levels(pipe.vae, plain)[0] > 15
    (error, latents), (known, shipped) = (levels(one.vae, pictures) for one in (inpainting, pipe))
    assert error < known + 0.5
    assert float((latents - shipped).std()) < 0.25 * float(shipped.std()), "the UNet was trained on these"


def test_removal_leaves_plain_pictures_plain(inpainting):
    tasks = weft.TaskPrompts.load(shapes.model_path("inpainting"))
    inpainting.set_progress_bar_config(disable=True)
    for number in range(4):
        lonely = scene(7, number, "test", objects=1)
        (thing,) = lonely.objects
        hole = cv2.dilate((coverage(thing.shape, thing.x, thing.y, thing.size) > 0).astype(np.uint8), np.ones((7, 7)))
        generator = torch.Generator().manual_seed(number)
        picture, mask = Image.fromarray(render(lonely)), Image.fromarray(255 * hole)
        painted = tasks.inpaint(
            inpainting, picture, mask, num_inference_steps=12, guidance_scale=3.0, generator=generator
        )
        assert not read(np.asarray(painted)), f"scene {number}"
        assert np.abs(np.asarray(painted).astype(int) - render(replace(lonely, objects=()))).mean() < 3


def test_sampling_sees_the_text_as_training_did(pipe):
    text = "a red circle and a blue square"
    with torch.no_grad():
        trained = pipe.text_encoder(token_ids_of(pipe.tokenizer, [text, ""])).last_hidden_state
        conditional, empty = pipe.encode_prompt(text, "cpu", 1, True)
    # of another batch, so another order of summation
    torch.testing.assert_close(conditional[0], trained[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(empty[0], trained[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", STOCK)
def test_every_part_has_the_dtype_asked_for(model, dtype):
    parts = shapes.pipeline(model, dtype).components.values()
    assert {part.dtype for part in parts if isinstance(part, torch.nn.Module)} == {dtype}


def test_decoded_scenes_can_be_read(pipe):
    assert decoded_reader_accuracy(pipe.vae, mixed_scenes(96, seed=5)).value >= 0.96


def test_single_objects_are_what_the_prompt_says(pipe):
    assert quality(pipe, prompts(24, 1, seed=5), guidance=3.0, steps=20, seed=5).correct.value >= 0.8


def test_the_mm_dit_draws_what_the_prompt_says(sd3):
    options = {"guidance": 3.0, "steps": 16, "seed": 5, "max_sequence_length": 1}
    assert quality(sd3, prompts(24, 1, seed=5), **options).correct.value >= 0.4


@pytest.mark.parametrize("model", STOCK)
def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch, model):
    monkeypatch.setitem(shipped.WEIGHTS, model, tmp_path)
    with pytest.raises(FileNotFoundError, match=f"train one with .*--model {model} --export-to"):
        shapes.pipeline(model)


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`model` must be one of 'sd1', 'sd3', 'inpainting'; got 'sdxl'"):
        shapes.pipeline("sdxl")


def test_importing_the_package_loads_no_diffusers():
    code = "import sys, weft.shapes; assert not {'transformers', 'diffusers'} & set(sys.modules), 'loaded'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_public_name_is_there():
    assert all(hasattr(shapes, name) for name in shapes.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = shapes.nothing
