"""The untrained parts of the shapes model. All of them are stock classes, so its weights need no code of ours."""

from __future__ import annotations

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .tokenizer import MAX_LENGTH
from .vocabulary import IMAGE_SIZE

LATENT_CHANNELS = 4
LATENT_SIZE = 16  # IMAGE_SIZE / 4
TEXT_WIDTH = 128
SECOND_TEXT_WIDTH = 64  # of the MM-DiT's second text encoder; Stable Diffusion 3 has one of another width too


def build_vae() -> AutoencoderKL:
    """[B, 3, 64, 64] in [-1, 1] to [B, 4, 16, 16] and back; ``scaling_factor`` is set after training."""
    levels = 3
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Token ids [B, 77] to hidden states [B, 77, 128], with CLIP's causal mask and final layer norm."""
    return CLIPTextModel(_text_config(tokenizer, TEXT_WIDTH))


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=width // 32,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # of a model made here; so few tokens train faster without the fused one
    )


def build_unet(in_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """The denoiser: cross-attention at 16x16 and 8x8.

    Args:
        in_channels: 4 for text-to-image; 9 for inpainting (latents, mask, masked latents).
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=in_channels,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(80, 120),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        # the number of heads, in spite of its name; the head width is 40 everywhere, as in SD1.x
        attention_head_dim=(2, 3),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of SD1.x, epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def build_projected_text_encoder(tokenizer: CLIPTokenizer, width: int = TEXT_WIDTH) -> CLIPTextModelWithProjection:
    """One of the two text encoders of the MM-DiT: hidden states [B, N, width], and one projected vector a text."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, width))


def build_transformer() -> SD3Transformer2DModel:
    """The MM-DiT: 64 image tokens and the text in one attention, five times.

    Modulations and the output start at zero, so every block begins as the identity.

    Source:
        adaLN-Zero of DiT: Peebles and Xie 2023, arXiv:2212.09748, section 3.2.
    """
    heads, head_dim = 4, 40
    model = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=5,
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH + SECOND_TEXT_WIDTH,
        caption_projection_dim=heads * head_dim,
        pooled_projection_dim=TEXT_WIDTH + SECOND_TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE // 2,
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if name.endswith((".norm1.linear", ".norm1_context.linear", "norm_out.linear", "proj_out")):
            nn.init.zeros_(module.weight)
    return model


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow from noise at sigma 1 to the image at 0; timesteps are 1000 sigma."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
