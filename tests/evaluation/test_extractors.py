"""Extractors: the judge, a folder of transformers, a module; each is used, none is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from weft.evaluation import folder_extractor, judge_extractor, module_extractor, open_extractor
from weft.evaluation.digests import digest_of, digests_of
from weft.shapes.tokenizer import build_tokenizer
from weft.train.core.weights import digest_of_weights
from weft.train.gan.pretrained import GivenEncoders

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def images(count: int, size: int = 64) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(one.numpy()) for one in pixels]


def save_processor(folder: Path) -> None:
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with its image processor and tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(20)
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 20, "eos_token_id": len(tokenizer) - 1}
    config = CLIPConfig(
        text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_processor(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random DINOv2, which knows no texts."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8)
    ).save_pretrained(folder)
    save_processor(folder)
    return folder


def test_a_folder_with_texts_embeds_both(clip: Path) -> None:
    extractor = open_extractor(clip)
    features = extractor.features(images(3, 48))
    assert features.shape == (3, 12)
    assert extractor.shared is not None and extractor.texts is not None
    assert torch.equal(extractor.shared(features), features)
    assert extractor.texts(["a red circle", "a ring"]).shape == (2, 12)
    model = CLIPModel.from_pretrained(clip).eval()
    pixels = CLIPImageProcessor.from_pretrained(clip)(images(3, 48), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        want = model.visual_projection(model.vision_model(pixels).pooler_output)
    torch.testing.assert_close(features, want)
    assert "32" in extractor.resize and extractor.weights == digest_of(model)


def test_a_long_caption_is_cut_with_a_warning(clip: Path) -> None:
    extractor = folder_extractor(clip)
    assert extractor.texts is not None
    with pytest.warns(UserWarning, match="1 of 2 captions are cut"):
        extractor.texts(["a red circle", "a red circle and " * 9])


def test_a_caption_is_embedded_the_same_whatever_is_beside_it(clip: Path, tmp_path: Path) -> None:
    """SigLIP looks at the last place of a row, where shorter captions have padding."""
    tokenizer = build_tokenizer(20)
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 20, "projection_size": 16}
    SiglipModel(
        SiglipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    save_processor(tmp_path)
    for folder in (clip, tmp_path):
        embed = folder_extractor(folder).texts
        assert embed is not None
        together = embed(["a ring", "a red circle and a blue square"])
        torch.testing.assert_close(embed(["a ring"]), together[:1], atol=1e-5, rtol=1e-4)


def test_a_folder_without_texts_gives_features_alone(dino: Path) -> None:
    extractor = folder_extractor(dino)
    assert extractor.features(images(2)).shape == (2, 16)
    assert extractor.texts is None and extractor.shared is None


def test_weights_that_are_not_in_the_folder_are_never_random(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8), add_pooling_layer=False).eval()
    model.half().save_pretrained(tmp_path)
    save_processor(tmp_path)
    once, again = (folder_extractor(tmp_path) for _ in range(2))
    assert once.weights == again.weights
    pixels = CLIPImageProcessor.from_pretrained(tmp_path)(images(2), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        want = model.float()(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(again.features(images(2)), want)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["embeddings.cls_token"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights of ViTModel are missing, such as embeddings\.cls_token"):
        folder_extractor(tmp_path)


def test_what_is_no_model_is_named_and_never_fetched(tmp_path: Path, dino: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"is no such word, and as a folder .* is not there; no model id is looked up and nothing is downloaded",
    ):
        open_extractor("openai/clip-vit-base-patch32")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        open_extractor(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ValueError, match="transformers cannot load it"):
        open_extractor(tmp_path)
    # the model is whole, its image processor is missing
    (tmp_path / "config.json").write_text((dino / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((dino / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="transformers cannot load it"):
        open_extractor(tmp_path)


class Means(nn.Module):
    """The mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x.mean((2, 3))


def test_a_module_sees_images_between_minus_one_and_one() -> None:
    module = Means()
    extractor = module_extractor(module, name="means")
    white, black = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16))
    torch.testing.assert_close(extractor.features([white, black]), torch.tensor([[1.0] * 3, [-1.0] * 3]))
    assert module.seen == [(2, 3, 16, 16)]
    assert extractor.about() == {"name": "means", "resize": "none", "weights": digest_of(module)}


def test_a_module_with_a_size_resizes() -> None:
    module = Means()
    extractor = module_extractor(module, name="means", size=8)
    extractor.features([Image.new("RGB", (16, 16)), Image.new("RGB", (32, 20))])
    assert module.seen == [(2, 3, 8, 8)]
    assert extractor.resize == "8 x 8, Pillow bicubic"


def test_sizes_that_do_not_fit() -> None:
    mixed = [Image.new("RGB", (16, 16)), Image.new("RGB", (32, 16))]
    with pytest.raises(ValueError, match="one size where the extractor does not resize; got 16 x 16, 32 x 16"):
        module_extractor(Means(), name="means").features(mixed)
    with pytest.raises(ValueError, match="looks at images of 64 x 64 pixels; got 16 x 16"):
        judge_extractor().features(mixed)


def test_a_module_that_gives_something_else() -> None:
    with pytest.raises(ValueError, match=r"must give \[2, D\] for 2 images; it gave \(2, 3, 64, 64\)"):
        module_extractor(lambda x: x, name="none").features(images(2))


def test_an_encoder_is_known_as_training_knows_it(clip: Path, dino: Path) -> None:
    both = folder_extractor(clip).digests
    given = GivenEncoders.of(clip, clip)
    assert {given.text_digest, given.vision_digest} <= both
    alone = GivenEncoders.of(None, dino).vision_digest
    assert alone in folder_extractor(dino).digests and alone not in both
    model = CLIPModel.from_pretrained(clip)
    # as another version of transformers, and a diffusion pipeline, have the tower that reads
    assert digest_of_weights([nn.ModuleDict({"text_model": model.text_model})]) in both
    # a user's own module has the encoder inside
    wrapped = nn.Sequential(nn.Upsample(32), model.vision_model)
    assert given.vision_digest in module_extractor(wrapped, name="wrapped").digests


def test_what_has_no_weights_is_known_by_none() -> None:
    assert digests_of(nn.Sequential(nn.ReLU())) == frozenset()
    assert module_extractor(lambda x: x.mean((2, 3)), name="means").digests == frozenset()


def test_digests_follow_the_weights() -> None:
    torch.manual_seed(0)
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert digest_of(one) == digest_of(other)
    other.num_batches_tracked += 1
    assert digest_of(one) != digest_of(other)
