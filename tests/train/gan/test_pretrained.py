"""Encoders of transformers from folders: of any class that a folder may name, of any precision, and never pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from weft.shapes.tokenizer import build_tokenizer
from weft.train.gan.image_encoder import PretrainedImages
from weft.train.gan.pretrained import load_text, load_vision
from weft.train.gan.text import Pretrained

SMALL: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENIZER = build_tokenizer(20)
WORDS = len(TOKENIZER)


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(T5Config(vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


def clip() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(vocab_size=WORDS, **SMALL, projection_dim=6, max_position_embeddings=20)
    )


# what is saved, and what of it encodes
TEXTS: dict[str, Any] = {
    "BERT that guesses words": (lambda: BertForMaskedLM(BertConfig(vocab_size=WORDS, **SMALL)), BertModel),
    "T5": (t5, T5EncoderModel),
    "half of CLIP": (clip, (CLIPTextModel, CLIPTextModelWithProjection)),  # with transformers 5 and before
}


@pytest.mark.parametrize("name", TEXTS)
def test_whatever_a_folder_holds_encodes_texts(name: str, tmp_path: Path) -> None:
    make, kind = TEXTS[name]
    torch.manual_seed(0)
    saved = make().eval()
    saved.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    encoder = Pretrained(*load_text(tmp_path), width=4, length=6)
    assert isinstance(encoder.model, kind)
    numbers = encoder.numbers(["a red circle", "a blue square and a green star"])
    assert encoder(numbers).words.shape == (2, 6, 4) and encoder(numbers).sentence.shape == (2, 4)
    # with the weights that were saved, and again when it is kept beside a generator
    own = saved.state_dict()
    assert all(
        torch.equal(value, next(own[name + key] for name in ("", "bert.", "text_model.") if name + key in own))
        for key, value in encoder.model.state_dict().items()
    )
    encoder.model.save_pretrained(tmp_path / "kept")
    TOKENIZER.save_pretrained(tmp_path / "kept")
    again = Pretrained(*load_text(tmp_path / "kept"), width=4, length=6)
    again.load_state_dict(encoder.state_dict())  # of the same names: no pooler that was never saved
    assert torch.equal(again(numbers).sentence, encoder(numbers).sentence)


def vision(folder: Path, model: Any) -> PretrainedImages:
    model.save_pretrained(folder)
    return PretrainedImages(load_vision(folder)[0], width=4)


def test_a_head_of_classes_is_left_out(tmp_path: Path) -> None:
    encoder = vision(tmp_path, ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8)))
    assert type(encoder.model) is ViTModel
    regions, code = encoder(torch.zeros(2, 3, 64, 64))
    assert regions.shape == (2, 17, 4) and code.shape == (2, 4)


def test_a_model_kept_in_half_precision_sees_pictures(tmp_path: Path) -> None:
    model = ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8), add_pooling_layer=False)
    encoder = vision(tmp_path, model.half())
    pictures = torch.rand(2, 3, 32, 32).requires_grad_()
    regions, code = encoder(pictures)
    assert regions.dtype == code.dtype == torch.float32
    assert torch.autograd.grad(code.sum(), pictures)[0].isfinite().all()


def test_a_folder_that_lacks_weights_is_none(tmp_path: Path) -> None:
    model = ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8))
    model.save_pretrained(tmp_path)
    ViTConfig(**{**SMALL, "num_hidden_layers": 2}, image_size=32, patch_size=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights of ViTModel are missing, such as"):
        load_vision(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8))
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="`vision` must be a folder with a vision model of transformers"):
        load_vision(tmp_path)
