"""SoftREPA: a few learnt tokens after the text, by which a model follows its prompts more closely."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.attach import Control, Generation, LayerInfo, LayerRequest, Step
from weft.attach.base_model import BaseModel
from weft.attach.extra_text import ExtraText
from weft.methods import _soft_tokens_file as file

BLOCKS = ("down_blocks", "mid_block", "up_blocks")
_TIMESTEPS = 1000
_RECORD = ("blocks", "base_name")


@dataclass(eq=False)
class SoftTokens(Control):
    """Tokens that some cross-attentions see after the text, in every image, with guidance in both of its rows.

        s(k, t) = tokens[k] + offsets[bucket(t)],   bucket(t) = floor(t) div (1000 / buckets)

    Attach them like any control: ``weft.attach(pipe, weft.SoftTokens.load("tokens.safetensors"))``. The weights of the
    model stay as they are. Keys and values of the tokens are computed once for all buckets; they cost m keys in the
    layers that see them. Positions of words in the prompt stay what they are, so maps and edits work beside them.

    Attributes:
        tokens: [m, C] fp32, C channels of the model's conditioning, the same for all layers.
        offsets: [buckets, C] fp32, what is added to every token at a timestep; None for nothing.
        blocks: Parts of the UNet whose cross-attentions see them: "down_blocks", "mid_block", "up_blocks".
        base_name: The model they were trained on.

    Raises:
        TypeError, ValueError: Tensors or blocks that are not as above. A model of another width is refused when
            attaching.

    Source:
        Lee et al. 2025, arXiv:2503.08250, in the layout of its released code (there after the start token, which is
        the same: keys of a cross-attention carry no position).
    """

    tokens: Tensor = field(repr=False)
    offsets: Tensor | None = field(default=None, repr=False)
    blocks: tuple[str, ...] = ("down_blocks",)
    base_name: str = "unnamed"

    def __post_init__(self) -> None:
        self.blocks = tuple(self.blocks)
        _check(self.tokens, self.offsets, self.blocks)
        self._request: LayerRequest | None = None
        self._made_of: tuple[Any, ...] | None = None  # what the bank in use was made of

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.tokens.shape[1]

    @property
    def buckets(self) -> int:
        """How many stretches of the schedule have offsets of their own; 1 for none."""
        return 1 if self.offsets is None else len(self.offsets)

    def bucket(self, timestep: float) -> int:
        """The stretch of the training schedule, 0 to 1000, that ``timestep`` lies in."""
        return min(max(int(timestep) * self.buckets // _TIMESTEPS, 0), self.buckets - 1)

    def bank(self) -> Tensor:
        """The tokens of every bucket, [buckets, m, C]."""
        return self.tokens[None] if self.offsets is None else self.tokens + self.offsets[:, None]

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file, whole or not at all.

        Args:
            path: The file; an existing one is replaced.
            dtype: What tokens are stored as.

        Raises:
            OSError: It cannot be written.
        """
        tensors = {file.TOKENS: self.tokens}
        if self.offsets is not None:
            tensors[file.OFFSETS] = self.offsets
        file.FILE.write(Path(path), tensors, {name: getattr(self, name) for name in _RECORD}, {}, dtype)

    @classmethod
    def load(cls, path: str | Path, *, blocks: tuple[str, ...] | None = None) -> SoftTokens:
        """Read what ``save`` wrote, or a set that the method's authors published (``dc_tokens.pth``).

        Nothing but tensors is taken from a ``.pth`` file, and no code of it runs.

        Args:
            path: The file; or a folder that holds one, or ``dc_tokens.pth`` and maybe ``dc_t_tokens.pth``.
            blocks: Where published tokens are added, in place of what their evaluation had: the down blocks of
                Stable Diffusion 1.5, the down blocks and the middle of XL.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short, damaged, something else, or of a model that weft does not know.
        """
        tokens_path, offsets_path = file.find(Path(path))
        if tokens_path.suffix == ".safetensors":
            tensors, record = file.FILE.read(tokens_path, _RECORD)
            if file.TOKENS not in tensors:
                raise ValueError(f"SoftTokens: {tokens_path} is damaged: it has no tensor {file.TOKENS!r}")
            chosen = tuple(record["blocks"]) if blocks is None else blocks
            return cls(tensors[file.TOKENS], tensors.get(file.OFFSETS), chosen, record["base_name"])
        tokens = file.read_pth(tokens_path)
        offsets = None if offsets_path is None else file.read_pth(offsets_path)
        known = [published for published in file.PUBLISHED if published.width == tokens.shape[-1]]
        if tokens.ndim != 2 or not known:
            raise ValueError(
                f"SoftTokens: {tokens_path} must hold tokens [m, C] of a published set, C one of "
                f"{', '.join(str(published.width) for published in file.PUBLISHED)}; got {list(tokens.shape)}"
            )
        return cls(tokens, offsets, known[0].blocks if blocks is None else blocks, known[0].model)

    # --- control --------------------------------------------------------------------------------------------------

    def check_model(self, model: BaseModel) -> None:
        if model.text_width != self.width:
            raise ValueError(
                f"SoftTokens: tokens of {self.base_name!r} have {self.width} channels and do not fit {model.name!r}, "
                f"whose text has {model.text_width}; use the model they were trained on, or a finetune of that"
            )

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        if not any(self._sees(layer) for layer in layers):
            raise ValueError(
                f"SoftTokens: weft serves no cross-attention in {', '.join(self.blocks)} of this model, so no layer "
                "would see the tokens; see `.skipped` of an attachment"
            )

    def begin_generation(self, generation: Generation) -> None:
        place = (generation.device, generation.model_dtype)
        versions = tuple(None if x is None else (id(x), x._version) for x in (self.tokens, self.offsets))
        if self._made_of != (*place, *versions):
            with torch.inference_mode(False):  # they serve later generations too
                row = torch.zeros(1, dtype=torch.int64, device=generation.device)
                self._request = LayerRequest(extra=ExtraText(self.bank().detach().to(*place), row))
            self._made_of = (*place, *versions)

    def begin_step(self, step: Step) -> None:
        assert self._request is not None and self._request.extra is not None
        self._request.extra.row.fill_(self.bucket(step.timestep))

    def request(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return self._request if self._sees(layer) else None

    def detached(self) -> None:
        self._request = self._made_of = None

    def _sees(self, layer: LayerInfo) -> bool:
        return layer.is_cross and layer.name.startswith(self.blocks)


def _check(tokens: Any, offsets: Any, blocks: tuple[str, ...]) -> None:
    for name, value in (("tokens", tokens), ("offsets", offsets)):
        if name == "offsets" and value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"SoftTokens: `{name}` must be a float tensor; got {getattr(value, 'dtype', value)!r}")
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(f"SoftTokens: `{name}` must be a matrix, none of its sides 0; got {list(value.shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"SoftTokens: `{name}` must be finite")
    if offsets is not None and offsets.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"SoftTokens: `tokens` and `offsets` must have equally many channels; got {tokens.shape[1]} and "
            f"{offsets.shape[1]}"
        )
    if offsets is not None and len(offsets) > _TIMESTEPS:
        raise ValueError(f"SoftTokens: `offsets` must have at most {_TIMESTEPS} rows; got {len(offsets)}")
    if not blocks or any(block not in BLOCKS for block in blocks):
        raise ValueError(f"SoftTokens: `blocks` must be of {', '.join(map(repr, BLOCKS))}; got {blocks!r}")
