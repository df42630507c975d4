"""The untrained parts of the shapes model. All of them are stock classes, so its weights need no code of ours."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .tokenizer import MAX_LENGTH
from .vocabulary import IMAGE_SIZE

LATENT_CHANNELS = 4
LATENT_SIZE = 16  # IMAGE_SIZE / 4
TEXT_WIDTH = 128


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
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
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
