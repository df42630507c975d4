"""Encoders of transformers from folders; nothing is fetched from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.train.core import digest_of_weights, lacks_pooler
from weft.train.gan.image_encoder import vision_tower
from weft.train.gan.text import text_tower

WHO = "fit_gan"


@dataclass(frozen=True, eq=False)
class GivenEncoders:
    """What a user brings in place of our own encoders, read.

    Attributes:
        text: Tokenizer and text encoder; None for our own.
        vision: Network from pictures to features; None for our own.
        vision_options: Of ``PretrainedImages``, as the model's folder says them.
    """

    text: tuple[Any, Any] | None = None
    vision: Any = None
    vision_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: Any, vision: Any) -> GivenEncoders:
        """Folders are read, everything else is taken as it is.

        Raises:
            FileNotFoundError, ValueError: As ``load_text`` and ``load_vision``.
        """
        if isinstance(text, (str, Path)):
            text = load_text(Path(text))
        options: Mapping[str, Any] = {}
        if isinstance(vision, (str, Path)):
            vision, options = load_vision(Path(vision))
        return cls(text, vision, options)

    @property
    def text_digest(self) -> str | None:
        """Of the weights of what reads captions."""
        return None if self.text is None else digest_of_weights([text_tower(self.text[1])])

    @property
    def vision_digest(self) -> str | None:
        """Of the weights of what looks at pictures."""
        return None if self.vision is None else digest_of_weights([vision_tower(self.vision)])


def load_text(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and text encoder of a folder of transformers, or of a pipeline of diffusers.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds something else.
    """
    from transformers import AutoTokenizer

    _check(folder, "text")
    parts = (folder / "tokenizer", folder / "text_encoder")
    tokenizer, model = parts if all(part.is_dir() for part in parts) else (folder, folder)
    try:
        return AutoTokenizer.from_pretrained(tokenizer, local_files_only=True), _model(model)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{WHO}: `text` must be a folder with a tokenizer and a text encoder; {error}") from error


def load_vision(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A vision model of a folder of transformers, and ``mean`` and ``std`` where its preprocessor says them.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds something else.
    """
    _check(folder, "vision")
    listing, image_statistics = folder / "preprocessor_config.json", {}
    if listing.is_file():
        record = json.loads(listing.read_text())
        image_statistics = {"mean": record.get("image_mean"), "std": record.get("image_std")}
    try:
        return _model(folder), {name: value for name, value in image_statistics.items() if value is not None}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{WHO}: `vision` must be a folder with a vision model of transformers; {error}") from error


def _model(folder: Path) -> Any:
    """As the class that its configuration names, so that a tower of CLIP is not taken for all of it.

    What gives no states, such as a head that guesses words, is left out, and of what answers texts the half that
    reads them is taken.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    named = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModel)
    if config.is_encoder_decoder:
        named = transformers.AutoModelForTextEncoding
    # safetensors only: a pickled checkpoint can run code when it is read
    local = {"local_files_only": True, "use_safetensors": True}
    model, report = named.from_pretrained(folder, output_loading_info=True, **local)
    if lacks_pooler(model, report):
        model.pooler = None
    # of CLIP's towers the inner module is no model by itself
    body = transformers.MODEL_MAPPING.get(type(config), ())
    return model.base_model if isinstance(model.base_model, body) else model


def _check(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{WHO}: `{name}` must be a folder; there is none at {folder}; no model id is looked up: fetch it by `hf "
            f"download ID --local-dir FOLDER` and give that folder"
        )
