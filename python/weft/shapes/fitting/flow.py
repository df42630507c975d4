"""Stage two of "sd3": MM-DiT and both text encoders together, on the latent bank, by rectified flow."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ..model import SECOND_TEXT_WIDTH, build_projected_text_encoder, build_transformer
from ..tokenizer import SHORT_LENGTH, build_tokenizer
from .bank import trained_bank
from .captioned import captioned_batches, slices
from .config import FlowConfig
from .counted_keys import CountedKeys
from .stage import fit_stage


class FlowObjective(nn.Module):
    """Velocity prediction for captioned latents, on the text states that ``StableDiffusion3Pipeline`` feeds.

    Its transformer has another attention processor than a stock one, and the same parameters.
    """

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        transformer.set_attn_processor(CountedKeys())

    def forward(
        self, latents: Tensor, noise: Tensor, token_ids: Tensor, sigmas: Tensor, null_tokens: Tensor
    ) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            latents: [B, 4, 16, 16], scaled, clean.
            noise: N(0, 1) of the same shape.
            token_ids: [B, N] int64.
            sigmas: [B] in (0, 1); 1 is noise.
            null_tokens: [B] int64, at least 1; tokens of zeros that follow the caption.

        Source:
            Esser et al. 2024, arXiv:2403.03206, section 2: the straight path and its velocity.
        """
        sigma = sigmas[:, None, None, None]
        velocity = self.velocity((1 - sigma) * latents + sigma * noise, token_ids, sigmas, null_tokens)
        return {"loss": (velocity.float() - (noise - latents)).square().mean()}

    def velocity(self, noisy: Tensor, token_ids: Tensor, sigmas: Tensor, null_tokens: Tensor) -> Tensor:
        """Predicted difference of noise and clean latents, of the shape of ``noisy`` [B, 4, 16, 16]."""
        text, pooled = self.text(token_ids)
        text = torch.cat([text, torch.zeros_like(text[:, :1])], dim=1)  # one token of zeros for all of them
        patches = (noisy.shape[-1] // self.transformer.config.patch_size) ** 2
        log_counts = noisy.new_zeros(len(noisy), 1, 1, patches + text.shape[1])
        log_counts[..., -1] = null_tokens.float().log()[:, None, None]
        return self.transformer(
            noisy,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=1000 * sigmas,
            joint_attention_kwargs={"attention_mask": log_counts},
        ).sample

    def text(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Both encoders side by side: token states [B, N, 192] before the last layer, and pooled vectors [B, 192]."""
        found = [encoder(token_ids, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        states = torch.cat([item.hidden_states[-2] for item in found], dim=-1)
        return states, torch.cat([item.text_embeds for item in found], dim=-1)


def flow_objective(tokenizer: CLIPTokenizer, text_encoder: str | None = None) -> FlowObjective:
    """An untrained objective; its first text encoder starts from the folder ``text_encoder`` if there is one."""
    first = build_projected_text_encoder(tokenizer)
    if text_encoder is not None:
        first = CLIPTextModelWithProjection.from_pretrained(text_encoder, attn_implementation="eager")
    return FlowObjective(build_transformer(), first, build_projected_text_encoder(tokenizer, SECOND_TEXT_WIDTH))


def sigmas_drawn(config: FlowConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sigmas [B] in (0, 1) and numbers of null tokens [B] of a batch.

    Source:
        Esser et al. 2024, arXiv:2403.03206, section 3.1: the logit-normal density.
    """
    normal = torch.special.ndtri(slices(config.batch_size, generator).double().clamp(1e-6, 1 - 1e-6)).float()
    choice = torch.randint(len(config.null_tokens), (config.batch_size,), generator=generator)
    return torch.sigmoid(config.logit_mean + config.logit_std * normal), torch.tensor(config.null_tokens)[choice]


def fit_flow(config: FlowConfig, seed: int, run: Path, accelerator: Accelerator) -> None:
    """Train the MM-DiT on the latents of ``run``/vae; the weights are in ``run``/flow/checkpoint.pt.

    Raises:
        FileNotFoundError: The autoencoder is not trained yet.
        Interrupted: See ``fit``.
    """
    bank = trained_bank(run, seed, config.bank_size, accelerator)
    tokenizer = build_tokenizer(SHORT_LENGTH)
    torch.manual_seed(seed)
    objective = flow_objective(tokenizer, config.text_encoder).train()
    batch_at = captioned_batches(
        bank, tokenizer, config, partial(sigmas_drawn, config), seed, accelerator.process_index
    )
    fit_stage("flow", objective, batch_at, config, seed, run / "flow", accelerator)
