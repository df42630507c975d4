"""The joint family (Stable Diffusion 3 and 3.5).

Relied on beyond the public interface: the blocks are named transformer_blocks, the joint attention of each ``attn``, a
second one of the image alone ``attn2``; and what ``joint_tokens`` says.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from weft.attach.families.family import Widths
from weft.attach.families.joint import Joint
from weft.attach.processors.joint_tokens import carry_tokens
from weft.attach.records import DenoiserCall, LayerInfo, Ranges, TextReader, TextStates


class SD3Family(Joint):
    """Joint transformers whose image comes before the text; some blocks have a second attention of the image alone."""

    def __init__(self) -> None:
        super().__init__(
            text_first=False,
            attentions=r"transformer_blocks\.\d+\.attn2?",
            classes=("SD3Transformer2DModel",),
            about="Stable Diffusion 3, 3.5, also image-to-image, inpainting and ControlNet",
            perturbs="skip_layers",
            shares_real=False,  # CLIP's text and T5's have padding of their own, and maps are of both
            readers=(
                TextReader("tokenizer", "text_encoder", "prompt"),
                TextReader("tokenizer_2", "text_encoder_2", "prompt_2"),
                TextReader("tokenizer_3", "text_encoder_3", "prompt_3", follows=True, length="max_sequence_length"),
            ),
        )

    takes_tokens = True
    is_trained = True
    text_length = 256

    def refuse_layer(self, model: Any, name: str, attn: Any) -> str | None:
        patch = self.patch(model)
        if patch.bit_count() != 1:
            return f"patches of {patch} x {patch} cells halve the latent no whole times"
        return super().refuse_layer(model, name, attn)

    def layer_info(self, model: Any, name: str, attn: Any) -> LayerInfo:
        is_joint = attn.added_kv_proj_dim is not None
        level = self.patch(model).bit_length() - 1
        return LayerInfo(name, is_joint, attn.heads, attn.inner_dim // attn.heads, level, is_joint)

    def ranges(self, model: Any, call: DenoiserCall, latent_size: tuple[int, int]) -> Ranges | None:
        patch, texts = self.patch(model), call.text.shape[1]
        pixels = (call.sample.shape[-2] // patch) * (call.sample.shape[-1] // patch)
        return Ranges(slice(0, pixels), slice(pixels, pixels + texts), pixels + texts)

    def widths(self, model: Any) -> Widths:
        return Widths(model.config.joint_attention_dim, model.config.caption_projection_dim)

    def hooks(self, model: Any) -> tuple[Any, ...]:
        return carry_tokens(model)

    def run(
        self, denoiser: Any, latents: Tensor, timestep: Tensor, text: TextStates, time_ids: Tensor | None = None
    ) -> Tensor:
        assert text.pooled is not None
        count = len(latents)
        times = count // len(text.states)
        predicted: Tensor = denoiser(
            latents,
            encoder_hidden_states=text.states.repeat_interleave(times, 0),
            pooled_projections=text.pooled.repeat_interleave(times, 0),
            timestep=timestep.expand(count),
        ).sample
        return predicted

    def feature_layer(self, model: Any) -> nn.Module:
        blocks = model.transformer_blocks
        layer: nn.Module = blocks[len(blocks) // 2]
        return layer

    def feature_map(self, output: Any) -> Tensor:
        states: Tensor = output[-1].mT  # of (text, pixels)
        return states

    def text_blocks(self, model: Any) -> tuple[str, ...]:
        return tuple(f"transformer_blocks.{number}" for number in range(len(model.transformer_blocks)))

    def patch(self, model: Any) -> int:
        return int(model.config.patch_size)

    def encode_arguments(self, text_length: int | None) -> dict[str, Any]:
        return {"prompt_2": None, "prompt_3": None, "max_sequence_length": text_length or self.text_length}


SD3 = SD3Family()
