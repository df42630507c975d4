"""What is measured on a GPU, in the order in which it matters: the figures first, so that a short run has those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import registry
from benchmarks.cases.contrastive_loss.baselines import PEERS
from benchmarks.registry import Benchmark, Mode, Provider, Shape

OPS = ("attention", "lowrank_linear", "contrastive_loss", "pairwise_error")

WEFT = ("weft", "weft_cuda", "weft_triton")
FUSED = ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient")
STACKED = ("merged", "peft", "addmm", "k_concatenation")
# providers of each mode, whose names no two ops share; those that compile take ten seconds a shape and are named case
# by case
PROVIDERS = {
    "plain": (*WEFT, *FUSED),
    "edit_maps": (*WEFT, "eager", "sdpa_padded", "sdpa_unpadded", "daam"),
    "self_edit": (*WEFT, "eager"),
    "joint_maps": (*WEFT, "eager", "sdpa_padded"),
    "plain_gradients": ("weft", *FUSED),
    "edit_maps_gradients": ("weft", "eager", "sdpa_padded"),
    "joint_maps_gradients": ("weft", "sdpa_padded"),
    "localized": ("weft", *STACKED, "blend"),
    "localized_image": ("weft", *STACKED, "blend", "bmm_image"),
    "several": ("weft", *STACKED),
    "lora": ("weft", *STACKED),
    "one_each": ("weft", "merged", "addmm", "k_concatenation"),
    "localized_on_base": ("weft", "peft", "addmm"),
    "localized_training": ("weft", "peft", "addmm"),
    "clip_forward": ("weft", "dense", "chunked", *PEERS),
    "clip": ("weft", "dense", "chunked", *PEERS),
    "nt_xent": ("weft", "dense", "chunked"),
    "errors": ("weft", "broadcast"),
    "errors_gradients": ("weft", "broadcast"),
}


@dataclass(frozen=True)
class Case:
    """One shape, mode and dtype, and who is measured there."""

    shape: str
    mode: str
    dtype: str = "bf16"
    compiled: tuple[str, ...] = ()
    op: str = "attention"

    @property
    def providers(self) -> tuple[str, ...]:
        return (*PROVIDERS[self.mode], *self.compiled)

    def parts(self, benchmark: Benchmark) -> tuple[Shape, Mode, tuple[Provider, ...]]:
        """The records that the names stand for.

        Raises:
            ValueError: A name is not known, or the provider does not run on a GPU.
        """
        (shape,) = registry.select("shape", benchmark.shapes, (self.shape,))
        (mode,) = registry.select("mode", benchmark.modes, (self.mode,))
        return shape, mode, registry.select("provider", mode.providers_on("cuda"), self.providers)

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype} {self.mode}"


FLEX = ("flex_compiled",)


def _lowrank(shape: str, mode: str, *compiled: str) -> Case:
    return Case(shape, mode, compiled=compiled, op="lowrank_linear")


def _contrastive(shape: str, mode: str, *compiled: str) -> Case:
    return Case(shape, mode, compiled=compiled, op="contrastive_loss")


def _errors(shape: str, mode: str, *compiled: str) -> Case:
    return Case(shape, mode, compiled=compiled, op="pairwise_error")


PLAN = (
    # what the figures are about
    Case("sd15_64", "plain"),
    Case("sd15_64", "edit_maps", compiled=FLEX),
    Case("sdxl_64", "plain"),
    Case("sdxl_64", "edit_maps", compiled=("flex_compiled", "eager_compiled")),
    Case("sd15_self_64", "plain"),
    Case("sd15_self_64", "self_edit", compiled=FLEX),
    Case("flux_joint", "plain"),
    Case("flux_joint", "joint_maps", compiled=FLEX),
    Case("sd3_joint", "plain"),
    Case("sd3_joint", "joint_maps", compiled=FLEX),
    Case("sdxl_64", "plain_gradients"),
    Case("sdxl_64", "edit_maps_gradients"),
    Case("flux_joint", "plain_gradients"),
    Case("flux_joint", "joint_maps_gradients"),
    Case("stress_d40", "edit_maps"),
    Case("sdxl_self_64", "plain"),
    Case("sdxl_self_64", "self_edit", compiled=FLEX),
    Case("pixart_64", "plain"),
    Case("pixart_64", "edit_maps", compiled=FLEX),
    Case("stress_d64", "edit_maps"),
    Case("stress_d128", "edit_maps"),
    _lowrank("sdxl_out_64", "localized", "peft_compiled", "addmm_compiled"),
    _lowrank("sdxl_out_32", "localized"),
    _lowrank("flux_out", "localized"),
    _lowrank("sdxl_out_64", "lora", "addmm_compiled"),
    _lowrank("sdxl_out_64", "one_each"),
    _lowrank("sd15_out_64", "localized_image"),
    _lowrank("sdxl_out_64", "localized_training"),
    _contrastive("clip_4k", "clip", "dense_compiled"),
    _contrastive("clip_16k", "clip", "dense_compiled"),
    _contrastive("clip_32k", "clip"),
    _contrastive("clip_64k", "clip"),
    _contrastive("simclr_16k", "nt_xent", "dense_compiled"),
    _errors("sd3_16", "errors_gradients", "broadcast_compiled"),
    # the rest of the layers
    Case("sdxl_32", "plain"),
    Case("sdxl_32", "edit_maps"),
    Case("sd15_32", "plain"),
    Case("sd15_32", "edit_maps"),
    Case("sd15_16", "plain"),
    Case("sd15_16", "edit_maps"),
    Case("stress_d40", "plain"),
    Case("stress_d64", "plain"),
    Case("stress_d128", "plain"),
    Case("sd15_64", "plain_gradients"),
    Case("sd15_64", "edit_maps_gradients"),
    Case("sd15_64", "edit_maps", "fp16"),
    Case("sdxl_64", "edit_maps", "fp16"),
    _contrastive("clip_1k", "clip"),
    _contrastive("clip_8k", "clip"),
    _contrastive("clip_16k", "clip_forward"),
    _lowrank("sd15_out_32", "localized_image"),
    _lowrank("sd15_out_16", "localized_image"),
    _lowrank("sd3_out", "localized"),
    _lowrank("flux_out", "lora"),
    _lowrank("flux_single", "lora"),
    _lowrank("sdxl_ff_in", "lora"),
    _lowrank("sdxl_text", "lora"),
    _lowrank("sdxl_out_32", "several"),
    _lowrank("sdxl_out_64", "localized_on_base"),
)


def describe() -> Iterator[str]:
    """One line a case: shape with its sizes, dtype, mode, providers and what each of them leaves out."""
    for case in PLAN:
        shape, _, providers = case.parts(registry.load(case.op))
        sizes = ", ".join(f"{axis} {size}" for axis, size in shape.sizes.items())
        names = [f"{p.name} ({p.note})" if p.note else p.name for p in providers]
        yield f"{case} ({sizes}): {', '.join(names)}"
