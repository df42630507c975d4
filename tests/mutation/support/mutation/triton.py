"""Faults in the Triton kernels and their launchers, which the tests run in Triton's interpreter."""

from __future__ import annotations

from mutation.fault import faults

OPS = "tests/ops"
# the interpreter is slow: of each file the tests that see the most
ATTENTION = (
    f"{OPS}/attention/test_triton.py -k 'key_lengths or number_of_columns or each_way or several_tiles "
    "or without_a_valid or read_nothing_else or zero_sizes'"
)
ATTENTION_GRADIENTS = (
    f"{OPS}/attention/test_triton_gradients.py -k 'through_each or head_widths or kind_of_label or shared_by or "
    "one_part or tie'"
)
CONTRASTIVE = (
    f"{OPS}/contrastive_loss/test_triton.py -k 'test_features or test_pairs or test_sizes or tiles_of or one_gradient'"
)
LOWRANK = f"{OPS}/lowrank_linear/test_triton.py -k 'weights or addends or gates or layouts or tiles or every_gate'"
LOWRANK_GRADIENTS = f"{OPS}/lowrank_linear/test_triton_gradients.py -k 'weights or gates or one_part or more_concepts'"
PAIRWISE = f"{OPS}/pairwise_error/test_triton.py -k 'any_errors or test_layouts or blocks_of or one_gradient'"
GATE = f"{OPS}/regions/test_gate_triton.py -k 'definition or real_maps or test_strides or not_finite'"
REGIONS = f"{OPS}/regions/test_triton.py -k 'definition or real_grids or factors or both_signs or absent'"

FAULTS = [
    *faults(
        "kernels/attention/fwd_short.py",
        ATTENTION,
        ("index", "queries = (program * TILES + i) * BLOCK_Q", "queries = (program + i) * BLOCK_Q"),
        ("dropped check", 'largest = tl.where(largest == float("-inf"), 0.0, largest)', "largest = largest"),
        (
            "mask",
            "nobody = tl.min(removed.to(tl.int32), axis=1)[:, None] > 0",
            "nobody = tl.max(removed.to(tl.int32), axis=1)[:, None] > 0",
        ),
        (
            "size",
            "programs = triton.cdiv(tiles, in_turn) * heads * samples",
            "programs = tiles // in_turn * heads * samples",
        ),
    ),
    *faults(
        "kernels/attention/fwd_long.py",
        ATTENTION,
        ("wrong axis", "of_tile = tl.max(kept, axis=1)[:, None]", "of_tile = tl.max(kept, axis=0)[:, None]"),
        ("sign", "bottom = tl.minimum(bottom, of_tile)", "bottom = tl.maximum(bottom, of_tile)"),
        (
            "wrong value",
            "total = total * fade + tl.sum(p, axis=1)[:, None]",
            "total = total + tl.sum(p, axis=1)[:, None]",
        ),
        (
            "wrong value",
            'out1 = tl.dot(weights, v1, out1 * fade, input_precision="ieee")',
            'out1 = tl.dot(weights, v1, out1, input_precision="ieee")',
        ),
        ("dropped check", 'shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)', "shift = new_largest"),
    ),
    *faults(
        "kernels/attention/fwd.py",
        ATTENTION,
        ("wrong value", "reads[:, 0] if heads == 1 else reads.mean(1), rows", "reads[:, 0], rows"),
        ("wrong branch", "if not seqlen_k:", "if seqlen_k < 0:"),
    ),
    *faults(
        "kernels/attention/tiles.py",
        ATTENTION,
        ("index", "return program % per_head, of_head % H,", "return program % per_head, of_head // H,"),
        (
            "mask",
            "mask=(keys[:, None] < limit) & (columns[None, :] < M), other=0.0)",
            "mask=(keys[:, None] < limit), other=0.0)",
        ),
        (
            "dropped check",
            "return tl.minimum(tl.maximum(labels, 0), count - 1)",
            "return tl.minimum(labels, count - 1)",
        ),
        ("wrong value", "bias = tl.load(delta_ptr + at) * LOG2E", "bias = tl.load(delta_ptr + at)"),
        ("stride", "at = r * LK + c", "at = r + c * LK"),
        ("mask", "x = tl.where(padded == 0, x, fill)", "x = tl.where(padded != 0, x, fill)"),
        (
            "index",
            "bias = tl.fma(tl.load(gamma_ptr + at), bottom, bias)",
            "bias = tl.fma(tl.load(gamma_ptr + at), top, bias)",
        ),
    ),
    *faults(
        "kernels/attention/host.py",
        ATTENTION,
        ("stride", "strides[0] if readout is not None and readout.shape[0] > 1 else 0", "0"),
        (
            "wrong branch",
            "all(stride % values == 0 and stride < 2**31 for stride in strides)",
            "any(stride % values == 0 and stride < 2**31 for stride in strides)",
        ),
        ("dropped check", "x[0].numel() if x is not None and x.shape[0] > 1 else 0", "0"),
    ),
    *faults(
        "kernels/attention/bwd_q.py",
        ATTENTION_GRADIENTS,
        (
            "wrong value",
            "row_term += tl.sum(do1.to(tl.float32) * o1.to(tl.float32), axis=1)[:, None]",
            "row_term += 0.0",
        ),
        ("dropped check", "row_term += tl.sum(dm * read, axis=1)[:, None]", "row_term += 0.0"),
        (
            "index",
            "keys = load_key(rows_ptr, BOTTOM_KEY * plane, row, mask)",
            "keys = load_key(rows_ptr, TOP_KEY * plane, row, mask)",
        ),
    ),
    *faults(
        "kernels/attention/bwd_kv.py",
        ATTENTION_GRADIENTS,
        (
            "wrong value",
            "dm = load_readout(dmaps_ptr, queries, M, 1, Nq, M, BLOCK_M) / H",
            "dm = load_readout(dmaps_ptr, queries, M, 1, Nq, M, BLOCK_M)",
        ),
        (
            "wrong value",
            "store_rows(dk_ptr + of_head, keys, H * D, Nk, dk0 * scale, 0, FIRST, D)",
            "store_rows(dk_ptr + of_head, keys, H * D, Nk, dk0, 0, FIRST, D)",
        ),
        (
            "index",
            "of_head = ((split * samples + sample) * Nk * H + head) * D",
            "of_head = (sample * Nk * H + head) * D",
        ),
        (
            "off by one",
            "split_length=triton.cdiv(tiles_q, splits) * tile.block_q",
            "split_length=(tiles_q // splits) * tile.block_q",
        ),
        ("wrong axis", "dw.sum((0, 2))", "dw.sum((0, 1))"),
        (
            "mask",
            "ds += tl.where(load_key(rows_ptr, TOP_KEY * plane, row, mask)[None, :] == keys[:, None], term, 0.0)",
            "ds += tl.where(load_key(rows_ptr, TOP_KEY * plane, row, mask)[None, :] >= keys[:, None], term, 0.0)",
        ),
    ),
    *faults(
        "kernels/attention/bwd.py",
        ATTENTION_GRADIENTS,
        (
            "wrong branch",
            "dreadout = dw.sum(0, keepdim=True) if dreadout.shape[0] < samples else dw",
            "dreadout = dw[:1] if dreadout.shape[0] < samples else dw",
        ),
    ),
    *faults(
        "kernels/attention/bwd_tables.py",
        ATTENTION_GRADIENTS,
        (
            "index",
            "_store_pairs(dtables_ptr, 2, dgamma * LN2, labels_q, labels_k, LQ, LK)",
            "_store_pairs(dtables_ptr, 2, dgamma * LN2, labels_k, labels_q, LQ, LK)",
        ),
        ("wrong value", "dbeta * LN2", "dbeta"),
        ("wrong branch", "labels_k = (pairs % pairs_k) * BLOCK_L", "labels_k = (pairs // pairs_k) * BLOCK_L"),
        (
            "wrong branch",
            "return sums[:, kind].sum(0, keepdim=True) if table.shape[0] < samples else sums[:, kind].clone()",
            "return sums[:, kind].clone()",
        ),
    ),
    *faults(
        "kernels/contrastive_loss/fwd.py",
        CONTRASTIVE,
        ("wrong value", "sums = sums * tl.exp(before - largest) + tl.sum(", "sums = sums + tl.sum("),
        ("mask", "stored = inside & (row_tile > first_row_tile)", "stored = inside"),
        (
            "wrong axis",
            "count_of_columns += tl.sum(positive.to(tl.float32), axis=0)",
            "count_of_columns += tl.sum(positive.to(tl.float32), axis=1)",
        ),
        ("wrong value", "total_sum = (sums * (maxima - largest).exp()).sum(0)", "total_sum = sums.sum(0)"),
        ("index", "by_row_ptr += column_part.to(tl.int64) * 4 * R", "by_row_ptr += row_part.to(tl.int64) * 4 * R"),
    ),
    *faults(
        "kernels/contrastive_loss/bwd.py",
        CONTRASTIVE,
        (
            "sign",
            "g -= tl.where(positive, y_of_columns[None, :], 0.0)",
            "g += tl.where(positive, y_of_columns[None, :], 0.0)",
        ),
        (
            "index",
            "y = tl.load(by_row_ptr + 2 * R + rows, mask=inside, other=0.0)",
            "y = tl.load(by_row_ptr + R + rows, mask=inside, other=0.0)",
        ),
        ("mask", "tl.where(mask, g * s, 0.0)", "g * s"),
        (
            "sign",
            "return -found * factors.scale / call.segment.temperature",
            "return found * factors.scale / call.segment.temperature",
        ),
        (
            "off by one",
            "call.rows[i : i + height], dcolumns[k : k + width]",
            "call.rows[:height], dcolumns[k : k + width]",
        ),
        ("stride", "stride_g_n=g.stride(1),", "stride_g_n=g.stride(0),"),
    ),
    *faults(
        "kernels/contrastive_loss/tiles.py",
        CONTRASTIVE,
        ("mask", "admissible = admissible & (positive | (same == 0))", "admissible = admissible & (same == 0)"),
        ("dropped check", "positive = positive & admissible", "positive = positive"),
        ("stride", "tl.load(column_ids_ptr + LINE * K + columns", "tl.load(column_ids_ptr + LINE * R + columns"),
    ),
    *faults(
        "kernels/lowrank_linear/fwd.py",
        LOWRANK,
        (
            "mask",
            "is_open = tl.max(tl.max((gate != 0.0).to(tl.int32), axis=1), axis=0)",
            "is_open = tl.min(tl.max((gate != 0.0).to(tl.int32), axis=1), axis=0)",
        ),
        ("mask", "here = inside & (tl.load(flag_at, mask=inside, other=0) > 0)", "here = inside"),
        ("index", "height = tl.minimum(row_tiles - first, GROUP)", "height = GROUP"),
        (
            "stride",
            "at = flags_ptr + tiles * tl.cdiv(R, BLOCK_R) + start // BLOCK_R",
            "at = flags_ptr + tiles + start // BLOCK_R",
        ),
        ("dropped check", 'gates |= {"gate_ptr": None, "concept_ptr": None}', "pass"),
        ("size", "BLOCK_R=power_of_two(call.rank) if shrunk is None", "BLOCK_R=16 if shrunk is None"),
        ("index", "columns = (column_tile * TILES + tile) * BLOCK_N", "columns = (column_tile + tile) * BLOCK_N"),
        (
            "wrong value",
            "at = row_offsets(rows, N, stride_residual_b, stride_residual_n)",
            "at = row_offsets(rows, N, stride_base_b, stride_residual_n)",
        ),
    ),
    *faults(
        "kernels/lowrank_linear/tiles.py",
        LOWRANK,
        ("stride", "(rows - samples * N).to(tl.int64) * stride_n", "rows.to(tl.int64) * stride_n"),
        (
            "mask",
            "mask = columns[None, :] < width\n    if not FULL_ROWS:",
            "mask = columns[None, :] <= width\n    if not FULL_ROWS:",
        ),
    ),
    *faults(
        "kernels/lowrank_linear/host.py",
        LOWRANK,
        ("stride", "gate.stride(axis) if gate.shape[axis] > 1 else 0", "gate.stride(axis)"),
        (
            "wrong value",
            "concepts.repeat_interleave(torch.tensor(ranks))",
            "concepts.repeat_interleave(torch.tensor(ranks[::-1]))",
        ),
    ),
    *faults(
        "kernels/lowrank_linear/bwd.py",
        LOWRANK_GRADIENTS,
        ("index", "(tile % across) * BLOCK_N", "(tile // across) * BLOCK_N"),
        ("off by one", "range(part * steps, part * steps + steps)", "range(part * steps, part * steps + steps - 1)"),
        ("mask", "(concept[:, None] == concepts[None, :])", "(concept[:, None] <= concepts[None, :])"),
        (
            "wrong axis",
            "return dgate.sum(shared, keepdim=True) if shared else dgate",
            "return dgate[:1] if shared else dgate",
        ),
        ("wrong branch", "return out[0] if parts == 1 else out.sum(0).to(q.dtype)", "return out[0].to(q.dtype)"),
    ),
    *faults(
        "kernels/pairwise_error/fwd.py",
        PAIRWISE,
        ("index", "row = (pair // C).to(tl.int64)", "row = (pair % C).to(tl.int64)"),
        ("off by one", "for block in range(first, first + blocks):", "for block in range(first, first + blocks - 1):"),
    ),
    *faults(
        "kernels/pairwise_error/bwd.py",
        PAIRWISE,
        ("sign", "dtarget -= dpred", "dtarget += dpred"),
        ("wrong branch", "each = columns if wanted[1] else", "each = 1 if wanted[1] else"),
        ("dropped check", "ordered.copy_(targets.view(ordered.shape))", "pass"),
    ),
    *faults(
        "kernels/pairwise_error/host.py",
        PAIRWISE,
        ("sign", "key=lambda axis: -strides[axis]", "key=lambda axis: strides[axis]"),
        (
            "wrong axis",
            "target.permute(0, *(axis - 1 for axis in order))",
            "target.permute(0, *(range(1, target.ndim)))",
        ),
    ),
    *faults(
        "kernels/regions/fwd.py",
        REGIONS,
        ("mask", "others = protectors & ~(1 << own)", "others = protectors"),
        ("off by one", "<= left))", "< left))"),
        ("sign", "means = (end - above - before + start)", "means = (end - above - before - start)"),
        ("mask", "apart |= (taken_bottom <= taken_top) | (taken_right <= taken_left)", "pass"),
        (
            "wrong branch",
            "best_at = tl.where(block_best > best, block_at, best_at)",
            "best_at = tl.where(block_best >= best, block_at, best_at)",
        ),
        ("stride", "integral_ptr + row * w + column", "integral_ptr + row * (w + 1) + column"),
    ),
    *faults(
        "kernels/regions/gate.py",
        GATE,
        ("off by one", "rank = (N - 1) // 2", "rank = N // 2"),
        (
            "mask",
            "count = tl.cumsum(histogram - tl.where(b == 0, BLOCK_N - N, 0), axis=0)",
            "count = tl.cumsum(histogram, axis=0)",
        ),
        ("off by one", "return (best + 1).to(tl.float32) / BINS", "return best.to(tl.float32) / BINS"),
        ("dropped check", 'acting = (strength != 0) & (span < float("inf"))', 'acting = span < float("inf")'),
        (
            "index",
            "row = repeat * B + sample\n            strength",
            "row = sample * repeats + repeat\n            strength",
        ),
        (
            "wrong branch",
            "inside = scaled >= cut[None, :] if IS_OTSU else",
            "inside = scaled > cut[None, :] if IS_OTSU else",
        ),
        ("dropped check", 'cut = tl.where(span < float("inf"), cut, float("inf"))', "cut = cut"),
    ),
]
