"""SoftREPA: a few learnt tokens beside the text, by which a model follows its prompts more closely."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.attach import BaseModel, Control, ExtraText, Generation, LayerInfo, LayerRequest, Prompt, Step
from weft.methods.sampling import LATER, OPEN, Sampling
from weft.methods.soft_tokens import file
from weft.methods.soft_tokens.blocks import block_of, check_blocks, check_place_for_tokens, check_served
from weft.methods.soft_tokens.checks import check_tensors
from weft.methods.soft_tokens.file import Space

_TIMESTEPS = 1000
_RECORD = ("blocks", "base_name")
_LATER = {"space": "conditioning", "text_length": None}  # older files lack these, and mean this


@dataclass(eq=False)
class SoftTokens(Control):
    """Tokens that some layers see after the text, in every image, with guidance in both of its rows.

        s(k, t) = tokens[k] + offsets[bucket(t)],   bucket(t) = floor(t) div (1000 / buckets)

    Attach them like any control: ``weft.attach(pipe, weft.SoftTokens.load("tokens.safetensors"))``. The weights of the
    model stay as they are. In the cross-attention of a UNet their keys and values are computed once for all buckets.
    In a joint attention (Stable Diffusion 3) they pass the block's own modulation and give keys and values alone; the
    streams keep their length. Positions of words in the prompt stay what they are, so maps and edits work beside them.

    Attributes:
        tokens: [m, C] fp32, the same for all layers; or [L, m, C], one set for each of ``blocks``.
        offsets: [buckets, C] or [buckets, L, C] fp32, what is added to every token at a timestep; None for nothing.
        blocks: Parts of the model whose layers see them, each the path of a module: "down_blocks", "down_blocks.1",
            "mid_block", "transformer_blocks.0". None may lie in another.
        base_name: The model they were trained on.
        space: "conditioning" where C is that of what ``encode_prompt`` gives, "block" where it is that of the blocks
            themselves. In a UNet blocks see the conditioning as it is, and only that space exists; Stable Diffusion 3
            sends conditioning through its ``context_embedder`` first.
        text_length: ``max_sequence_length`` of the T5 text that they were trained beside; a generation with another
            one is warned about, once. None where there is no such choice, as with UNets.
        sampling: How pictures are best drawn with them.

    Raises:
        TypeError, ValueError: Tensors, blocks or a space that are not as above. A model of another width is refused
            when attaching.

    Source:
        Lee et al. 2025, arXiv:2503.08250, in the layout of its released code (there after the start token, in Stable
        Diffusion 3 before the text, which is the same: keys carry no position).
    """

    tokens: Tensor = field(repr=False)
    offsets: Tensor | None = field(default=None, repr=False)
    blocks: tuple[str, ...] = ("down_blocks",)
    base_name: str = "unnamed"
    space: Space = "conditioning"
    text_length: int | None = None
    sampling: Sampling = OPEN

    def __post_init__(self) -> None:
        self.blocks = check_blocks(self.blocks, who="SoftTokens")
        check_tensors(self.tokens, self.offsets, len(self.blocks), _TIMESTEPS)
        if self.space not in ("conditioning", "block"):
            raise ValueError(f"SoftTokens: `space` must be 'conditioning' or 'block'; got {self.space!r}")
        length = self.text_length
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
            raise ValueError(f"SoftTokens: `text_length` must be None or a number of tokens; got {length!r}")
        self.start_blank()

    def start_blank(self) -> None:
        self._requests: tuple[LayerRequest, ...] = ()  # of each block, or one of all
        self._row: Tensor | None = None
        self._made_of: tuple[Any, ...] | None = None  # what the requests in use were made of
        self._has_warned = False

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.tokens.shape[-1]

    @property
    def is_shared(self) -> bool:
        """Whether all blocks see the same tokens."""
        return self.tokens.ndim == 2

    @property
    def buckets(self) -> int:
        """How many stretches of the schedule have offsets of their own; 1 for none."""
        return 1 if self.offsets is None else len(self.offsets)

    def bucket(self, timestep: float) -> int:
        """The stretch of the training schedule, 0 to 1000, that ``timestep`` lies in."""
        return min(max(int(timestep) * self.buckets // _TIMESTEPS, 0), self.buckets - 1)

    def bank(self) -> Tensor:
        """The tokens of every bucket: [buckets, m, C], or [buckets, L, m, C] where each block has its own."""
        return self.tokens[None] if self.offsets is None else self.tokens + self.offsets[..., None, :]

    def settings(self) -> dict[str, Any]:
        return {"tokens": self.tokens.shape[-2], "blocks": self.blocks}

    def recommended(self) -> dict[str, Any]:
        """The guidance, and the length of the T5 text, that they were trained beside; without what has no value."""
        call = {"guidance_scale": self.sampling.guidance_scale, "max_sequence_length": self.text_length}
        return {name: value for name, value in call.items() if value is not None}

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
        record = {name: getattr(self, name) for name in (*_RECORD, *_LATER)} | self.sampling.record()
        file.FILE.write(Path(path), tensors, record, {}, dtype)

    @classmethod
    def load(cls, path: str | Path, *, blocks: tuple[str, ...] | None = None) -> SoftTokens:
        """Read what ``save`` wrote, or a set that the method's authors published (``dc_tokens.pth``).

        Nothing but tensors is taken from a ``.pth`` file, and no code of it runs.

        Args:
            path: The file; or a folder that holds one, or ``dc_tokens.pth`` and maybe ``dc_t_tokens.pth``.
            blocks: Where published tokens are added, in place of what their evaluation had: the down blocks of
                Stable Diffusion 1.5, the down blocks and the middle of XL, the first five blocks of 3, each of
                which has its own.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short, damaged, something else, or of a model that weft does not know.
        """
        tokens_path, offsets_path = file.find(Path(path))
        if tokens_path.suffix == ".safetensors":
            tensors, record = file.FILE.read(tokens_path, _RECORD, {**_LATER, **LATER})
            record["sampling"] = Sampling.of(record["sampling"])
            if file.TOKENS not in tensors:
                raise ValueError(f"SoftTokens: {tokens_path} is damaged: it has no tensor {file.TOKENS!r}")
            record["blocks"] = tuple(record["blocks"]) if blocks is None else blocks
            return cls(tensors[file.TOKENS], tensors.get(file.OFFSETS), **record)
        tokens = file.read_pth(tokens_path)
        known = file.recognised(tokens_path, tokens)
        offsets = None if offsets_path is None else known.offsets(file.read_pth(offsets_path))
        chosen = known.blocks if blocks is None else blocks
        return cls(tokens, offsets, chosen, known.model, known.space, known.text_length)

    # --- control --------------------------------------------------------------------------------------------------

    def check_model(self, model: BaseModel) -> None:
        width = model.text_width if self.space == "conditioning" else model.block_width
        if width != self.width:
            have = "text has" if self.space == "conditioning" else "blocks have a text of"
            trained = f"whose {have} {width}" if width is not None else "whose blocks see nothing but its conditioning"
            raise ValueError(
                f"SoftTokens: tokens of {self.base_name!r} have {self.width} channels and do not fit {model.name!r}, "
                f"{trained}; use the model they were trained on, or a finetune of that"
            )

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        check_served(layers, self.blocks, who="SoftTokens")
        check_place_for_tokens(layers, self.blocks, who="SoftTokens")

    def begin_generation(self, generation: Generation) -> None:
        self._compare_text(generation.prompt)
        place = (generation.device, generation.model_dtype)
        versions = tuple(None if x is None else (id(x), _version(x)) for x in (self.tokens, self.offsets))
        if self._made_of != (*place, *versions):
            with torch.inference_mode(False):  # they serve later generations too
                self._row = row = torch.zeros(1, dtype=torch.int64, device=generation.device)
                bank = self.bank().detach().to(*place)
                sets = (bank,) if self.is_shared else bank.unbind(1)
                self._requests = tuple(
                    LayerRequest(extra=ExtraText(one.contiguous(), row, self.space)) for one in sets
                )
            self._made_of = (*place, *versions)

    def begin_step(self, step: Step) -> None:
        assert self._row is not None
        self._row.fill_(self.bucket(step.timestep))

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        block = block_of(layer.name, self.blocks) if layer.is_cross else None
        return None if block is None else self._requests[0 if self.is_shared else block]

    def detached(self) -> None:
        self._requests, self._row, self._made_of = (), None, None

    def _compare_text(self, prompt: Prompt | None) -> None:
        """Say once that the tokens were trained beside a T5 text of another length."""
        found = None if prompt is None else prompt.text_length
        if self._has_warned or found is None or self.text_length in (None, found):
            return
        self._has_warned = True
        warnings.warn(
            f"SoftTokens: tokens of {self.base_name!r} were trained beside a T5 text of {self.text_length} tokens; "
            f"this generation has one of {found}; call the pipeline with max_sequence_length={self.text_length}",
            stacklevel=2,
        )


def _version(tensor: Tensor) -> Any:
    """What changes when ``tensor`` does; a tensor made in inference mode counts nothing, and is new every time."""
    return object() if tensor.is_inference() else tensor._version
