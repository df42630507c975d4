"""Faults in the Python of the package."""

from __future__ import annotations

from mutation.fault import faults

OPS = "tests/ops"

FAULTS = [
    # --- ops
    *faults(
        "python/weft/ops/attention/native.py",
        f"{OPS}/attention/test_contract.py {OPS}/test_idle_strides.py",
        (
            "stride",
            "return x.data_ptr(), 0 if x.shape[0] == 1 or not x.numel() else x.stride(0)",
            "return x.data_ptr(), x.stride(0)",
        ),
        ("dropped check", "if x.dtype != dtype or not x.is_contiguous():", "if x.dtype != dtype:"),
        ("stride", "head if heads > 1 else 0,", "token if heads > 1 else 0,"),
    ),
    *faults(
        "python/weft/ops/attention/edit.py",
        f"{OPS}/attention/test_messages.py",
        ("dropped check", "allowed = allowed | (values == -torch.inf)", "allowed = allowed | values.isinf()"),
        ("dropped check", "if table.ndim != 3 or 0 in table.shape:", "if table.ndim != 3:"),
        ("wrong axis", "if table.shape[1:] != first.shape[1:]:", "if table.shape[2:] != first.shape[2:]:"),
    ),
    *faults(
        "python/weft/ops/attention/checks.py",
        f"{OPS}/attention/test_messages.py",
        ("off by one", "if smallest < 0 or largest >= count:", "if smallest < 0 or largest > count:"),
        ("dropped check", "if k.shape[0] != samples or k.shape[3] != head_dim", "if k.shape[3] != head_dim"),
        ("wrong branch", "return key_heads > 0 and heads % key_heads == 0", "return key_heads > 0"),
        ("dropped check", "if not 1 <= head_dim <= MAX_HEAD_DIM:", "if not 1 <= head_dim:"),
    ),
    *faults(
        "python/weft/ops/attention/op.py",
        f"{OPS}/attention/test_gradients.py -k 'arriving or each_gradient_alone or strided_tables'",
        (
            "index",
            "table_gradients, readout_gradient = any(needs[4:8]), needs[8]",
            "table_gradients, readout_gradient = any(needs[4:7]), needs[8]",
        ),
        ("index", "given(dv, 2),", "given(dv, 1),"),
    ),
    *faults(
        "python/weft/ops/contrastive_loss/cpu.py",
        f"{OPS}/contrastive_loss/test_op.py",
        ("wrong value", "found[SUM] *= (found[MAX] - largest).exp_()", "found[SUM] *= 1.0"),
        (
            "sign",
            "dtemperature[s] -= (through * a).sum(dtype=torch.float64)",
            "dtemperature[s] += (through * a).sum(dtype=torch.float64)",
        ),
        (
            "wrong axis",
            "directions = [(rows, 1), (columns, 0)] if self.symmetric",
            "directions = [(rows, 1), (columns, 1)] if self.symmetric",
        ),
        ("mask", "same = same if positive is None else same & ~positive", "same = same"),
        ("off by one", "if high < other_low or other_high < low:", "if high <= other_low or other_high < low:"),
        ("dropped check", "positive &= ~hidden", "positive &= True"),
        (
            "wrong branch",
            "bounded = longest[0] * longest[1] <= MOST_EXPONENT * float(segment.temperature)",
            "bounded = True",
        ),
        ("off by one", "yield start, min(start + TILE, length)", "yield start, min(start + TILE, length - 1)"),
    ),
    *faults(
        "python/weft/ops/lowrank_linear/cpu.py",
        "tests/csrc/test_lowrank_linear_cpu.py -k blas",
        ("mask", "is_open = gate != 0\n", "is_open = gate > 0.5\n"),
        ("index", "starts = [sum(ranks[:k]) for k in concepts]", "starts = [sum(ranks[: k + 1]) for k in concepts]"),
        (
            "wrong branch",
            "if residual is not None and weight is not None and not channels_first:",
            "if residual is not None and not channels_first:",
        ),
        ("wrong axis", "by_sample = (gate != 0).any(1).tolist()", "by_sample = (gate != 0).all(1).tolist()"),
        ("dropped check", "or gate.shape[:2] != x.shape[:2]:", ":"),
        (
            "index",
            "return gate if gate is None or gate.shape[0] == 1 else gate[samples]",
            "return gate if gate is None else gate[:1]",
        ),
    ),
    *faults(
        "python/weft/ops/lowrank_linear/cpu_fused.py",
        "tests/csrc/test_lowrank_linear_cpu.py -k 'not blas'",
        (
            "stride",
            "return gate.data_ptr(), batch, row if gate.shape[1] > 1 else 0, column",
            "return gate.data_ptr(), batch, row, column",
        ),
        ("wrong axis", "if (row if by_channel else column) != 1:", "if (column if by_channel else row) != 1:"),
        ("wrong branch", "by_channel = channels_first and rows > 1", "by_channel = channels_first"),
        ("dropped check", "if bias is not None and not bias.is_contiguous():", "if False:"),
    ),
    *faults(
        "python/weft/ops/lowrank_linear/checks.py",
        f"{OPS}/lowrank_linear/test_messages.py",
        ("dropped check", "if sum(ranks) != total:", "if sum(ranks) > total:"),
        ("wrong axis", "if down.shape[1] != x.shape[-1]:", "if down.shape[1] != x.shape[1]:"),
        ("dropped check", "if weight is not None and base is not None:", "if False:"),
    ),
    *faults(
        "python/weft/ops/pairwise_error/cpu.py",
        f"{OPS}/pairwise_error/test_op.py",
        ("sign", "dtarget[row] -= through.sum(0)", "dtarget[row] += through.sum(0)"),
        ("wrong value", "factors = (derror * (2 / target[0].numel()))", "factors = (derror * (2 / target.numel()))"),
        ("off by one", "yield row, slice(start, start + width)", "yield row, slice(start, start + width - 1)"),
    ),
    *faults(
        "python/weft/ops/regions/assign.py",
        f"{OPS}/regions/test_assign.py",
        ("wrong branch", "best = worth.argmax(1)", "best = worth.argmin(1)"),
        ("index", "torch.zeros_like(chosen).scatter(1, tried[best][..., None].expand_as(chosen), chosen)", "chosen"),
        ("dropped check", "maps = maps.detach().masked_fill(~present[..., None, None], 0.0)", "maps = maps.detach()"),
    ),
    *faults(
        "python/weft/ops/regions/checks.py",
        f"{OPS}/regions/test_messages.py {OPS}/regions/test_gate_messages.py",
        ("dropped check", "if cells and exclusion is not None:", "if False:"),
        ("off by one", "if not 0 <= level < 1:", "if not 0 <= level <= 1:"),
        ("dropped check", "if tuple(out.shape) != shape or not out.is_contiguous():", "if tuple(out.shape) != shape:"),
    ),
    *faults(
        "python/weft/ops/_autocast.py",
        f"{OPS}/test_autocast.py",
        ("wrong branch", "and x.dtype != torch.float64", ""),
        ("dropped check", "if before is x and after.dtype == dtype:", "if False:"),
    ),
    *faults(
        "python/weft/ops/_transforms.py",
        f"{OPS}/test_transforms.py",
        ("dropped check", "if any(x.is_neg() or x._is_zerotensor() for x in tensors):", "if False:"),
        ("index", "filled[place] = x\n", "filled[0] = x\n"),
    ),
    # --- attach
    *faults(
        "python/weft/attach/processors/plan.py",
        "tests/attach/test_controls.py tests/attach/processors/test_extra_text.py "
        "tests/attach/processors/test_joint.py",
        ("index", "start += request.readout.shape[2]", "start += 1"),
        (
            "wrong axis",
            "torch.cat([r.expand(batch, -1, -1) for r in readouts], dim=2)",
            "torch.cat([r.expand(batch, -1, -1) for r in readouts], dim=1)",
        ),
        (
            "size",
            "readout = F.pad(readout, (0, 0, 0, extra.bank.shape[1]))",
            "readout = F.pad(readout, (0, 0, extra.bank.shape[1], 0))",
        ),
        ("dropped check", "if extra is not None and not layer.is_cross:", "if False:"),
        (
            "wrong branch",
            "is_read = any(request.readout is not None and request.sink is None",
            "is_read = all(request.readout is not None and request.sink is None",
        ),
    ),
    *faults(
        "python/weft/attach/processors/cross.py",
        "tests/attach/test_exchange.py tests/attach/processors/test_extra_text.py tests/attach/test_controls.py",
        ("wrong value", "self._scale = attn.scale if self._rule.uses_layer_scale else None", "self._scale = None"),
        ("wrong branch", "cache = self._cache if keeps_text else None", "cache = self._cache"),
    ),
    *faults(
        "python/weft/attach/processors/masks.py",
        "tests/attach/test_controls.py tests/attach/processors/test_masks.py",
        ("sign", "else rows < _PADDING_BIAS", "else rows > _PADDING_BIAS"),
        ("wrong value", "added[1, 1] = 1.0", "added[:, 1] = 1.0"),
        ("dropped check", "if beta is not None or gamma is not None:", "if False:"),
    ),
    *faults(
        "python/weft/attach/processors/seam.py",
        "tests/attach/processors/test_joint.py tests/attach/processors/test_joint_tokens.py "
        "tests/attach/processors/test_seam.py",
        (
            "index",
            "F.pad(request.readout, (0, 0, before, after - plan.tokens))",
            "F.pad(request.readout, (0, 0, after - plan.tokens, before))",
        ),
        ("index", "maps = maps[:, self.ranges.image]", "maps = maps[:, self.ranges.text]"),
        ("dropped check", "if ranges is not None and query.shape[1] != ranges.total:", "if False:"),
    ),
    *faults(
        "python/weft/attach/families/joint.py",
        "tests/attach/test_families.py -k 'flux or chroma'",
        ("index", "first = texts if self.text_first else 0", "first = 0"),
        ("wrong axis", "first.max(0).values - first.min(0).values + 1", "first.max(0).values.flip(0) + 1"),
    ),
    *faults(
        "python/weft/attach/text/known_texts.py",
        "tests/attach/test_rows.py",
        ("off by one", "return slice(first, first + count)", "return slice(first, first + count + 1)"),
        ("dropped check", "if rows is not None:\n", "if False:\n"),
        ("index", "start=prompt.images if prompt.guided else 0", "start=0"),
    ),
    *faults(
        "python/weft/attach/processors/plan.py",
        "tests/attach/processors/test_joint.py tests/attach/processors/test_extra_text.py",
        ("wrong value", 'identity = {"alpha": 1.0}', "identity = {}"),
        ("index", "_placed(total, self._neutral_query,", "_placed(total, 0,"),
    ),
    *faults(
        "python/weft/attach/processors/text_cache.py",
        "tests/attach/processors/test_text_cache.py",
        ("dropped check", "return (fused, autocast, text._version,", "return (fused, autocast,"),
        (
            "dropped check",
            "and not (torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors]))",
            "",
        ),
        ("dropped check", "self.text() is text\n", "self.text() is not None\n"),
        ("size", "*others[-(_ENTRIES_PER_LAYER - 1) :], newest", "newest"),
    ),
    *faults(
        "python/weft/attach/projections.py",
        "tests/attach/test_projections.py -k 'not slow'",
        ("wrong axis", "x = x.flatten(2).transpose(1, 2)", "x = x.flatten(2).transpose(1, 2).flip(1)"),
        ("wrong branch", "and module.weight.dtype == hidden_states.dtype", ""),
        ("dropped check", 'if "forward" in module.__dict__:', "if False:"),
    ),
    *faults(
        "python/weft/attach/injection.py",
        "tests/attach/test_injection.py",
        ("index", "None if residuals is None else residuals[index]", "None if residuals is None else residuals[0]"),
        ("dropped check", "if len(given) > 1:", "if len(given) > 2:"),
    ),
    *faults(
        "python/weft/attach/generation.py",
        "tests/attach/test_generation.py",
        (
            "sign",
            "return (timestep > last.timestep) is not self._rises",
            "return (timestep < last.timestep) is not self._rises",
        ),
        (
            "off by one",
            "return (entry - self._first) // order",
            "return (entry - self._first + 1) // order",
        ),
        (
            "index",
            "return float(self._values[timestep.storage_offset() - schedule.storage_offset()])",
            "return float(self._values[timestep.storage_offset()])",
        ),
    ),
    *faults(
        "python/weft/attach/text/tokenized.py",
        "tests/attach/text/test_tokenized.py tests/attach/text/test_prompt.py",
        (
            "off by one",
            "return self.start - self.dropped + self._row_length - self._row.pieces.closing",
            "return self.start - self.dropped + self._row_length",
        ),
        (
            "off by one",
            "if number is not None and number > len(found):",
            "if number is not None and number > len(found) + 1:",
        ),
        ("index", "tokens = found[(number or 1) - 1]", "tokens = found[0]"),
    ),
    *faults(
        "python/weft/attach/text/prompt.py",
        "tests/attach/text/test_prompt.py tests/attach/text/test_prompt_joint.py",
        ("wrong branch", "if len(set(places)) > 1:", "if len(set(places)) > 2:"),
    ),
    # --- methods
    *faults(
        "python/weft/methods/inpainting/canvas.py",
        "tests/methods/inpainting/test_input.py tests/methods/inpainting/test_paste.py",
        (
            "index",
            "canvas[top : top + height, left : left + width] = picture",
            "canvas[bottom : bottom + height, left : left + width] = picture",
        ),
        ("off by one", "inner_width = width - overlap * (bool(left) + bool(right))", "inner_width = width - overlap"),
    ),
    *faults(
        "python/weft/methods/inpainting/paste.py",
        "tests/methods/inpainting/test_paste.py",
        ("mask", "ramp[distance > feather] = 0", ""),
        ("dropped check", "np.clip(np.rint(mixed), 0, 255).astype(np.uint8)", "np.rint(mixed).astype(np.uint8)"),
        (
            "sign",
            "_float(cv2.pyrUp(mixed, dstsize=detail.shape[1::-1])) + detail",
            "_float(cv2.pyrUp(mixed, dstsize=detail.shape[1::-1])) - detail",
        ),
    ),
    *faults(
        "python/weft/methods/inpainting/window.py",
        "tests/methods/inpainting/test_paste.py tests/methods/inpainting/test_input.py",
        ("dropped check", "return min(max(start, 0), length - side), side", "return max(start, 0), side"),
        ("wrong axis", "y, down = _span(top, bottom, side, height)", "y, down = _span(left, right, side, height)"),
    ),
    *faults(
        "python/weft/methods/maskdiffusion/tables.py",
        "tests/methods/maskdiffusion/test_tables.py",
        ("sign", "slope[0, 1:] = -1.0", "slope[0, 1:] = 1.0"),
        ("wrong value", "slope[2, 1:, 1:] -= same", ""),
        ("index", "(FIRST_OBJECT + 1, head)", "(FIRST_OBJECT + 1, attribute)"),
        (
            "wrong branch",
            "slope[:, BACKGROUND] *= background\n    return ScaledEdit.of(base[:, None], slope[:, None])\n\n\n"
            "def self_edit",
            "return ScaledEdit.of(base[:, None], slope[:, None])\n\n\ndef self_edit",
        ),
    ),
    *faults(
        "python/weft/methods/maskdiffusion/regions.py",
        "tests/methods/maskdiffusion/test_regions.py tests/methods/maskdiffusion/test_control.py",
        (
            "wrong value",
            "self.maps + (maps - self.maps) * (1 / self._passes if momentum is None else 1 - momentum)",
            "maps",
        ),
    ),
    *faults(
        "python/weft/methods/maskdiffusion/boxes.py",
        "tests/methods/maskdiffusion/test_regions.py tests/methods/maskdiffusion/test_control.py",
        (
            "off by one",
            "last, stop = max(int(bottom * rows), first + 1), max(int(right * columns), start + 1)",
            "last, stop = int(bottom * rows), int(right * columns)",
        ),
        (
            "wrong axis",
            "torch.tensor([first, start, last - first, stop - start])",
            "torch.tensor([start, first, stop - start, last - first])",
        ),
    ),
    *faults(
        "python/weft/methods/residuals/factors.py",
        "tests/methods/residuals/test_control.py tests/methods/residuals/test_many_small_ranks.py",
        (
            "size",
            "rank = max(residual.ranks.get(name, 0) for residual in residuals)",
            "rank = residuals[0].ranks.get(name, 0)",
        ),
    ),
    *faults(
        "python/weft/methods/residuals/gates.py",
        "tests/methods/residuals/test_control.py",
        ("wrong value", "to.total.add_(maps)", "to.total.copy_(maps)"),
        ("index", "to, maps = self.to, maps[self.to.rows]", "to, maps = self.to, maps[: maps[self.to.rows].shape[0]]"),
    ),
    *faults(
        "python/weft/methods/residuals/lora.py",
        "tests/methods/residuals/test_residual.py",
        ("wrong value", "up[name] = up[name] * scale", "up[name] = up[name]"),
        ("dropped check", 'if config.get("use_rslora"):', "if False:"),
        ("index", "alphas.get(name, alpha) / ranks.get(name, rank)", "alphas.get(name, alpha) / rank"),
    ),
    *faults(
        "python/weft/methods/residuals/regions.py",
        "tests/methods/residuals/test_control.py tests/methods/residuals/test_messages.py",
        (
            "wrong axis",
            "_covered(top, bottom, height)[:, None] * _covered(left, right, width)",
            "_covered(left, right, height)[:, None] * _covered(top, bottom, width)",
        ),
        (
            "dropped check",
            "if not (0 <= left < right <= width and 0 <= top < bottom <= height):",
            "if not (left < right and top < bottom):",
        ),
    ),
    *faults(
        "python/weft/methods/residuals/run.py",
        "tests/methods/residuals/test_control.py",
        ("wrong branch", "last=layer.name == names[-1]", "last=layer.name == names[0]"),
        ("index", "strengths[start:stop] = images", "strengths[: len(images)] = images"),
    ),
    *faults(
        "python/weft/methods/soft_tokens/control.py",
        "tests/methods/soft_tokens/test_control.py",
        ("off by one", "int(timestep) * self.buckets // _TIMESTEPS", "-(-int(timestep) * self.buckets // _TIMESTEPS)"),
        ("dropped check", "self._row.fill_(self.bucket(step.timestep))", "pass"),
        ("wrong axis", "self.tokens + self.offsets[..., None, :]", "self.tokens + self.offsets[:1, ..., None, :]"),
    ),
    *faults(
        "python/weft/methods/powerpaint/branch_run.py",
        "tests/methods/powerpaint/test_branch.py",
        (
            "off by one",
            "index <= step.index < index + schedule.reuse",
            "index <= step.index <= index + schedule.reuse",
        ),
        (
            "index",
            "torch.cat([others[:start], positive[: stop - start], others[: batch - stop]])",
            "torch.cat([positive, others])",
        ),
        (
            "off by one",
            "return self.start <= index and (self.until is None or index < self.until)",
            "return self.start <= index and (self.until is None or index <= self.until)",
        ),
    ),
    *faults(
        "python/weft/methods/attention_maps/token_maps.py",
        "tests/methods/attention_maps/test_token_maps.py",
        ("wrong axis", "size = (over.height, over.width)", "size = (over.width, over.height)"),
        ("sign", "heat = maps[index] - maps[index].min()", "heat = maps[index].max() - maps[index]"),
    ),
    # --- train
    *faults(
        "python/weft/train/core/loop.py",
        "tests/train/core/test_loop.py",
        (
            "off by one",
            "weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))",
            "weight = 1.0 - min(decay, step / (10.0 + step))",
        ),
        (
            "wrong value",
            'accelerator.backward(losses["loss"] / config.accumulation, inputs=own)',
            'accelerator.backward(losses["loss"], inputs=own)',
        ),
        ("dropped check", 'load_optimizer_state(learners, saved["optimizer"])', "pass"),
        ("wrong branch", 'if saved is not None and saved["identity"] != identity:', "if False:"),
    ),
    *faults(
        "python/weft/train/core/config.py",
        "tests/train/core/test_loop.py",
        (
            "off by one",
            "warmup = min(1.0, (step + 1) / max(self.warmup_steps, 1))",
            "warmup = min(1.0, step / max(self.warmup_steps, 1))",
        ),
        ("sign", "(1.0 - math.sqrt(decayed))", "math.sqrt(decayed)"),
    ),
    *faults(
        "python/weft/train/diffusion/noising.py",
        "tests/train/diffusion/test_noising.py",
        ("sign", "return noise - latents", "return latents - noise"),
        (
            "wrong value",
            "return noisy - s * predicted, noisy + (1 - s) * predicted",
            "return noisy - s * predicted, noisy + s * predicted",
        ),
        ("wrong branch", 'if kind == "v_prediction":', 'if kind == "sample":'),
    ),
    *faults(
        "python/weft/train/diffusion/shared_prefix.py",
        "tests/train/diffusion/test_shared_prefix.py",
        (
            "index",
            "return cls(numbers * times, numbers.repeat_interleave(times))",
            "return cls(numbers, numbers.repeat_interleave(times))",
        ),
        ("dropped check", "if repeats is None or host.model.is_gradient_checkpointing:", "if repeats is None:"),
    ),
    *faults(
        "python/weft/train/distribution/losses.py",
        "tests/train/distribution/test_losses.py",
        ("wrong branch", 'exclude=None if is_real else "self"', "exclude=None"),
        ("index", "positives=(rows[0], columns[0]),", "positives=(rows[0], rows[0]),"),
        (
            "dropped check",
            "if compared.classes is not None and loss.class_mask is not False:",
            "if compared.classes is not None:",
        ),
    ),
    *faults(
        "python/weft/train/distribution/columns.py",
        "tests/train/distribution/test_losses.py",
        ("dropped check", '_features("real", real, first).detach()', '_features("real", real, first)'),
        ("wrong axis", "return of_rows.repeat(views), of_reals", "return of_rows.repeat_interleave(views), of_reals"),
    ),
    *faults(
        "python/weft/train/soft_tokens/contrast.py",
        "tests/train/soft_tokens/test_fit.py",
        (
            "wrong value",
            "gradient.add((contrastive + rest).sum() / count)",
            "gradient.add((contrastive + rest).mean())",
        ),
        ("index", "error.gather(1, own[:, None]).mean()", "error[:, 0].mean()"),
    ),
    *faults(
        "python/weft/train/task_prompts/masks.py",
        "tests/train/task_prompts/test_masks.py",
        (
            "index",
            "hole[top : size - bottom, left : size - right] = False",
            "hole[left : size - bottom, top : size - right] = False",
        ),
        ("dropped check", "return sides(size, rng) if hole.all() else hole", "return hole"),
    ),
    *faults(
        "python/weft/train/task_prompts/objective.py",
        "tests/train/task_prompts/test_fit.py",
        ("dropped check", "other = first.detach().clone()", "other = first.clone()"),
        ("index", "other[loose] = second", "other[: len(loose)] = second"),
    ),
]
