"""Faults in the CUDA kernels, whose source runs on the CPU in tests/cuda_emulation."""

from __future__ import annotations

from mutation.fault import faults

# the copy of the tree that faults are planted in compiles one kernel alone: D = 40, float16 (run.py)
EMULATED = (
    "tests/cuda_emulation/test_attention_emulated.py -k 'query_lengths or several_tiles or layouts or tables_present "
    "or labels_present or readouts or readout_of or shared_and_own or masked_rows or large_logits or no_keys or "
    "identity_tables or readout_does_not or labels_out or refuses or captured or read_masks'"
)

FAULTS = [
    *faults(
        "csrc/attention/cuda/edit.cuh",
        EMULATED,
        (
            "dropped check",
            "return min(max(label, 0), static_cast<int>(limit) - 1);",
            "return min(label, static_cast<int>(limit) - 1);",
        ),
        ("mask", "if (key >= p.Nk) return absent;", ""),
        ("index", "p.key_padding + sample * p.key_padding_batch + key)", "p.key_padding + key)"),
        ("index", "at = i / columns * (columns - 1) + label;", "at = i / columns * columns + label;"),
        (
            "wrong value",
            "affine.x = value(p.alpha, p.alpha_batch, at, 1.0f);",
            "affine.x = value(p.alpha, p.alpha_batch, at, 0.0f);",
        ),
        ("sign", "low[row] = quad_min(low[row]);", "low[row] = quad_max(low[row]);"),
        ("dropped check", "if (high[row] == -__builtin_inff()) high[row] = low[row] = 0.0f;", ""),
        ("mask", "if (valid) range.high[e / 2] =", "range.high[e / 2] ="),
        ("off by one", "if (n * 8 + lane % 4 * 2 + e % 2 >= keys)", "if (n * 8 + lane % 4 * 2 + e % 2 > keys)"),
        (
            "index",
            "fmaf(entry.x, range.high[e / 2], entry.y * range.low[e / 2])",
            "fmaf(entry.x, range.high[e / 2], entry.y * range.low[e % 2])",
        ),
    ),
    *faults(
        "csrc/attention/cuda/long.cuh",
        EMULATED,
        (
            "off by one",
            "const int tiles = (keys + Tile::kKeys - 1) / Tile::kKeys;",
            "const int tiles = keys / Tile::kKeys;",
        ),
        ("index", "o[i][n][e] *= e < 2 ? correction.x : correction.y;", "o[i][n][e] *= correction.x;"),
        ("stride", "v + first * p.v_stride.token", "v + first * p.k_stride.token"),
        (
            "wrong value",
            "const float before = tile == first_read ? 0.0f : load_global(entry);",
            "const float before = 0.0f;",
        ),
        ("wrong branch", "if (first_read < tiles) return;", "return;"),
        (
            "index",
            "tables.row(query_label(p, sample, warp_row + i * 16 + lane / 4 + j * 8))",
            "tables.row(query_label(p, sample, warp_row + i * 16 + lane / 4))",
        ),
    ),
    *faults(
        "csrc/attention/cuda/short.cuh",
        EMULATED,
        ("index", "row_labels[1] = query_label(p, sample, row + 8);", "row_labels[1] = query_label(p, sample, row);"),
        ("size", "const int padded = (columns + 7) / 8 * 8;", "const int padded = columns;"),
        ("index", "tiles * (chunk + 1) / call.chunks", "tiles * chunk / call.chunks"),
        ("wrong value", "c[e] * map_factor[e / 2]", "c[e]"),
    ),
    *faults(
        "csrc/attention/cuda/readout.cuh",
        EMULATED,
        ("mask", "if (row < rows && m < columns) visit", "if (m < columns) visit"),
        ("index", "tile = (tile / kTiles + 1) * kTiles;", "tile = (tile / kTiles + 2) * kTiles;"),
        ("dropped check", "mma_tf32(c, a, b_rest[0], b_rest[1]);", ""),
        ("wrong value", "sum[j] / static_cast<float>(heads)", "sum[j]"),
        ("mask", "if (weight != 0.0f) read_here |=", "if (weight > 0.5f) read_here |="),
    ),
    *faults(
        "csrc/attention/cuda/softmax.cuh",
        EMULATED,
        ("dropped check", "inverse[row] = total == 0.0f ? 0.0f : 1.0f / total;", "inverse[row] = 1.0f / total;"),
        ("wrong value", "sum[row] *= correction[row];", ""),
        ("size", "return x + __shfl_xor_sync(kAllLanes, x, 2);", "return x;"),
    ),
    *faults(
        "csrc/attention/cuda/rows.cuh",
        EMULATED,
        ("mask", "inside ? load_unaligned(source) : uint4{0, 0, 0, 0}", "load_unaligned(source)"),
        ("index", "static_cast<uint16_t>(pairs[i] >> 16)", "static_cast<uint16_t>(pairs[i])"),
    ),
    *faults(
        "csrc/attention/attention.cu",
        EMULATED,
        ("wrong branch", "p.readout_batch ? read_mask_words(p) : 0;", "0;"),
        (
            "dropped check",
            "is_ranged(p) || p.alpha || p.delta || p.key_padding;",
            "is_ranged(p) || p.alpha || p.delta;",
        ),
        ("dropped check", "is_aligned(p.v, p.v_stride) &&", ""),
        ("size", "p.Lq * (p.Lk + 1) * (is_ranged(p) ? 2 : 1)", "p.Lq * p.Lk * (is_ranged(p) ? 2 : 1)"),
        ("dropped check", "if (limits.major < 8)", "if (limits.major < 7)"),
        (
            "size",
            "head_maps = carver.take<float>(p.H > 1 ? rows : 0, p.M);",
            "head_maps = carver.take<float>(p.H > 2 ? rows : 0, p.M);",
        ),
    ),
]
