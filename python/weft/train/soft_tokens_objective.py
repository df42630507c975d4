"""What ``fit_soft_tokens`` minimises: every caption of a batch against every picture, by the error of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step
from weft.attach.extra_text import ExtraText
from weft.methods.soft_tokens import SoftTokens
from weft.ops import bounded_logit, pairwise_error
from weft.train.diffusion import denoising_target


class TrainedTokens(Control):
    """Shows the layers of ``blocks`` the tokens that are being trained.

    Attributes:
        tokens_at: The tokens [m, C] at a timestep, for pictures drawn meanwhile; a training pass says itself what it
            shows.
    """

    def __init__(self, blocks: Sequence[str]) -> None:
        self.tokens_at: Callable[[float], Tensor] | None = None
        self._blocks = tuple(blocks)
        self._request: LayerRequest | None = None

    def show(self, tokens: Tensor) -> None:
        """From the next pass on, ``tokens`` [m, C]."""
        row = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        self._request = LayerRequest(extra=ExtraText(tokens[None], row))

    def begin_step(self, step: Step) -> None:
        if self.tokens_at is not None and not torch.is_grad_enabled():
            self.show(self.tokens_at(step.timestep).to(step.generation.model_dtype))

    def request(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return self._request if layer.is_cross and layer.name.startswith(self._blocks) else None


def check_served(attachment: weft.Attachment, *, who: str) -> None:
    """Refuse a model with attention that weft does not serve: it would not know a text for several pictures.

    Raises:
        ValueError: There is some.
    """
    if attachment.skipped:
        name, reason = attachment.skipped[0]
        raise ValueError(
            f"{who}: needs the attention of the whole model; {name} {reason}; give it back its own "
            "(`pipe.unet.set_default_attn_processor()`, `pipe.unload_ip_adapter()`)"
        )


class SoftTokensObjective(nn.Module):
    """The contrastive loss of SoftREPA over a batch of B pictures and their captions.

        e_ij = mean (target_i - f(z_i, t, caption_j, tokens))^2,   l_ij = scale exp(-e_ij / width)
        loss = mean_i -log softmax_j(l_ij)_i + weight * mean_i e_ii

    The B x B evaluations are done economically: a caption's keys and values are computed once for all pictures;
    pictures come in chunks, each with its own backward pass, so that memory is that of a chunk and the result that of
    the whole batch. With several processes the captions of all are columns of each.

    Attributes:
        tokens: [m, C] fp32.
        offsets: [buckets, C] fp32, or None.
    """

    unet: Any

    def __init__(
        self,
        unet: Any,
        control: TrainedTokens,
        scheduler: Any,
        start: SoftTokens,
        *,
        accelerator: Any,
        denoising_weight: float = 10.0,
        logit_scale: float = 4.0,
        logit_width: float = 0.07,
        rows_at_once: int | None = None,
    ) -> None:
        """``control`` is attached to ``unet``; tokens and offsets begin as those of ``start``."""
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler
        self.tokens = nn.Parameter(start.tokens.clone())
        self.offsets = None if start.offsets is None else nn.Parameter(start.offsets.clone())
        self._start = start
        self._control = control
        control.tokens_at = self.shown
        self._accelerator = accelerator
        self._denoising_weight = denoising_weight
        self._logit = {"scale": logit_scale, "width": logit_width}
        self._rows_at_once = rows_at_once
        self._is_alone = False

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timestep: Tensor,
        states: Tensor,
        pooled: Tensor,
        time_ids: Tensor,
        alike: Tensor,
    ) -> dict[str, Tensor]:
        """The loss, and what tells whether tokens collapse.

        Args:
            latents: [B, Ch, h, w] fp32, clean.
            noise: N(0, 1), [B or 1, Ch, h, w].
            timestep: [1] int64, of the whole batch.
            states: [B, Nk, C], the encoded captions, of each picture its own.
            pooled: [B, Cp], read by SDXL alone.
            time_ids: [B, 6], read by SDXL alone.
            alike: [B, 2] int64, numbers of picture and caption: a picture is not compared with another caption of its
                own, nor with its own caption a second time.

        Returns:
            "loss", and without gradient "contrastive", "denoising" (mean e_ii), "error_negative", "accuracy" (rows
            whose own caption has the least error), "token_norm".
        """
        first = 0 if self._is_alone else len(states) * self._accelerator.process_index
        own = torch.arange(first, first + len(states), device=states.device)
        if self._accelerator.num_processes > 1 and not self._is_alone:
            gather = self._accelerator.gather
            states, pooled, alike = (gather(part.contiguous()) for part in (states, pooled, alike))
        twice = (alike[own, None] == alike).any(-1)
        twice[torch.arange(len(own)), own] = False
        shown = self.shown(float(timestep))
        # each chunk is differentiated with respect to what is shown, by itself
        leaf = shown.detach().requires_grad_(torch.is_grad_enabled())
        self._control.show(leaf.to(states.dtype))
        gradient, errors = torch.zeros_like(leaf), []
        for rows in torch.split(torch.arange(len(latents), device=latents.device), self._rows_at_once or len(latents)):
            mine = noise if len(noise) == 1 else noise[rows]
            part = self._errors(latents[rows], mine, timestep, states, pooled, time_ids[rows])
            if leaf.requires_grad:
                # a sum over rows: the mean of all is the sum of the chunks'
                scale = self._scale()
                loss = self._losses(part, own[rows], twice[rows])[0].sum() / len(latents)
                gradient += torch.autograd.grad(loss * scale, leaf)[0] / scale
            errors.append(part.detach())
        error = torch.cat(errors)
        loss, contrastive, positive = (value.mean() for value in self._losses(error, own, twice))
        return {
            "loss": _Differentiated.apply(loss, shown, gradient),  # type: ignore[no-untyped-call]
            "contrastive": contrastive,
            "denoising": positive,
            "error_negative": error[_rivals(twice, own)].mean(),
            "accuracy": (error.masked_fill(twice, torch.inf).argmin(1) == own).float().mean(),
            "token_norm": shown.detach().norm(dim=1).mean(),
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile the captions of other processes are left out, so that one may measure what the others do not."""
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone = False

    def shown(self, timestep: float) -> Tensor:
        """The tokens at ``timestep``, [m, C]."""
        return self.tokens if self.offsets is None else self.tokens + self.offsets[self._start.bucket(timestep)]

    def learnt(self, average: Mapping[str, Tensor] | None = None) -> SoftTokens:
        """The tokens as they are now, or their moving average, on the CPU."""
        values = dict(self.named_parameters()) if average is None else average
        tokens, offsets = values["tokens"], values.get("offsets")
        return replace(
            self._start,
            tokens=tokens.detach().float().cpu().clone(),
            offsets=None if offsets is None else offsets.detach().float().cpu().clone(),
        )

    def _errors(
        self, latents: Tensor, noise: Tensor, timestep: Tensor, states: Tensor, pooled: Tensor, time_ids: Tensor
    ) -> Tensor:
        """e [R, C] of R pictures and all captions, fp32."""
        rows, columns = len(latents), len(states)
        times = timestep.expand(rows)
        noise = noise.expand_as(latents)
        noisy = self.scheduler.add_noise(latents, noise, times).to(self.unet.dtype)
        added = {}
        if pooled.shape[1]:
            ids = time_ids.repeat(columns, 1).to(pooled.dtype)
            added["added_cond_kwargs"] = {"text_embeds": pooled.repeat_interleave(rows, 0), "time_ids": ids}
        # pictures of a caption lie together: an attached cross-attention then needs each caption once
        found = self.unet(noisy.repeat(columns, 1, 1, 1), timestep.expand(rows * columns), states, **added).sample
        predicted = found.float().view(columns, rows, *found.shape[1:]).transpose(0, 1)
        return pairwise_error(predicted, denoising_target(self.scheduler, latents, noise, times))

    def _losses(self, error: Tensor, own: Tensor, twice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every row, [R] each: the whole, its contrastive part, and the error of its own caption."""
        logits = bounded_logit(error, **self._logit).masked_fill(twice, -torch.inf)
        contrastive = F.cross_entropy(logits, own, reduction="none")
        positive = error.gather(1, own[:, None])[:, 0]
        return contrastive + self._denoising_weight * positive, contrastive, positive

    def _scale(self) -> float:
        """What fp16 gradients are multiplied by meanwhile, lest they vanish."""
        scaler = self._accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())


def _rivals(twice: Tensor, own: Tensor) -> Tensor:
    """The pairs that do not match, [R, C]."""
    return ~twice.scatter(1, own[:, None], True)


class _Differentiated(torch.autograd.Function):
    """A value whose derivative with respect to ``shown`` is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shown: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, above * gradient, None
