"""Faults in the native CPU kernels."""

from __future__ import annotations

from mutation.fault import faults

ATTENTION = "tests/csrc/test_attention_cpu.py -k 'not amx and not peak'"
LOWRANK = "tests/csrc/test_lowrank_linear_cpu.py -k 'not blas'"
BOTH = "tests/csrc/test_attention_cpu.py tests/csrc/test_lowrank_linear_cpu.py -k 'not amx and not peak and not blas'"
WORKSPACE = "tests/csrc/test_workspace.py"

FAULTS = [
    *faults(
        "csrc/attention/attention_cpu.cpp",
        ATTENTION,
        ("index", "group_ = task % plan.groups;", "group_ = task / plan.groups % plan.groups;"),
        ("index", "first_row_ = tile % plan.tiles * shape_.rows;", "first_row_ = tile % plan.tiles;"),
        ("index", "sample_ = tile / plan.tiles;", "sample_ = tile % plan.tiles;"),
        ("wrong branch", "if (shape_.key_blocks == 1) expand_edit(0);", "if (shape_.key_blocks > 1) expand_edit(0);"),
        ("wrong branch", "plan_.mode == EditMode::kRange && shape_.key_blocks > 1;", "false;"),
        ("sign", "factor_ = p_.scale < 0 ? -p_.scale : p_.scale;", "factor_ = p_.scale;"),
        ("sign", "p_.scale < 0 ? -1.0f : 1.0f", "p_.scale < 0 ? 1.0f : 1.0f"),
        ("mask", "return left < shape_.block ? left : shape_.block;", "return shape_.block;"),
        ("stride", "keys + block * shape_.depth * shape_.block,", "keys + block * shape_.depth * kLanes,"),
        (
            "index",
            "p_.query_labels[sample_ * p_.query_labels_batch + first_row_ + row]",
            "p_.query_labels[sample_ * p_.query_labels_batch + row]",
        ),
        (
            "stride",
            "shape_.block, shape_.block};",
            "shape_.block, plan_.keys_padded};",
        ),
        (
            "wrong value",
            "const float* decay = block ? scratch_.stats.decay : nullptr;",
            "const float* decay = nullptr;",
        ),
        ("index", "p_.out_stride, sample_, first_row_ + r, head));", "p_.out_stride, sample_, r, head));"),
        ("dropped check", "sum > 0.0f ? 1.0f / sum : 0.0f", "1.0f / sum"),
        (
            "mask",
            "store_first(to + i, mul(load(row + i), share), static_cast<int>(p_.D - i));",
            "store_first(to + i, mul(load(row + i), share), kLanes);",
        ),
        ("wrong value", "splat(1.0f / static_cast<float>(p_.H))", "splat(1.0f)"),
        (
            "size",
            "out = carver.take<float>(rows, shape.width).data;",
            "out = carver.take<float>(1, shape.width).data;",
        ),
    ),
    *faults(
        "csrc/attention/softmax.h",
        ATTENTION,
        ("mask", "most = max(most, select(valid, x, splat(-kInfinity)));", "most = max(most, x);"),
        ("sign", "if (b < *low) *low = b;", "if (b > *low) *low = b;"),
        (
            "index",
            "x = fmadd(load(edit.planes + 3 * edit.stride + i), splat(low), x);",
            "x = fmadd(load(edit.planes + 2 * edit.stride + i), splat(low), x);",
        ),
        ("mask", "x = select(above(delta, splat(-kInfinity)), x, splat(-kInfinity));", ""),
        ("mask", "x = select(first(static_cast<int>(count - i)), x, splat(-kInfinity));", ""),
        ("wrong value", "add(mul(load(rows.sum + r), decay), load(rows.block_sum + r))", "load(rows.block_sum + r)"),
        ("dropped check", "select(above(largest, splat(-kInfinity)), largest, splat(0.0f));", "largest;"),
        ("wrong value", "sum = add(sum, w);", "sum = w;"),
    ),
    *faults(
        "csrc/attention/edit_row.h",
        ATTENTION,
        ("mask", "const bool absent = key >= p.Nk || (padding && padding[key]);", "const bool absent = key >= p.Nk;"),
        ("stride", "p.beta + sample * p.beta_batch + label * p.Lk", "p.beta + sample * p.beta_batch + label * p.Lq"),
        ("index", "p.key_labels + sample * p.key_labels_batch", "p.key_labels"),
        (
            "wrong value",
            "row[i] = absent ? 0.0f : entry(alpha, column, 1.0f) * factor;",
            "row[i] = absent ? 0.0f : entry(alpha, column, 1.0f);",
        ),
    ),
    *faults(
        "csrc/attention/pack.h",
        ATTENTION,
        ("stride", "(shape.depth * shape.block) + key", "(shape.depth * kLanes) + key"),
        ("mask", "key + i >= p.Nk || (padding && padding[key + i]);", "key + i >= p.Nk;"),
        ("stride", "token * strides.token + head * strides.head;", "token * strides.token + head * strides.token;"),
    ),
    *faults(
        "csrc/attention/prepare.cpp",
        ATTENTION,
        ("wrong branch", "if (p.alpha || p.delta || p.key_padding) return", "if (p.alpha || p.delta) return"),
        ("dropped check", "(p.delta && p.delta_batch) ||", ""),
        ("dropped check", "(p.key_padding && p.key_padding_batch);", "false;"),
        ("off by one", "return (a + b - 1) / b;", "return a / b;"),
        ("size", "carver.take<int32_t>(readers, s.key_blocks + 1)", "carver.take<int32_t>(readers, s.key_blocks)"),
        ("size", "planes && labels <= kExpandedEditValues", "planes && labels > kExpandedEditValues"),
        (
            "index",
            "if (key % s.block == 0) at(starts, key / s.block) = count;",
            "if (key % s.block == 0) at(starts, key / s.block) = 0;",
        ),
        (
            "index",
            "at(keys, count) = static_cast<int32_t>(key % s.block);",
            "at(keys, count) = static_cast<int32_t>(key % 64);",
        ),
        ("stride", "p.readout + sample * p.readout_batch + key * p.M;", "p.readout + key * p.M;"),
    ),
    *faults(
        "csrc/attention/check.cpp",
        ATTENTION,
        ("dropped check", "if (p.D > kMaxHeadWidth)", "if (false)"),
        ("dropped check", 'check_strides("v", p.v_stride, p.B, p.Nk, p.Hk);', ""),
        ("dropped check", 'check_table("gamma", p.gamma, p.gamma_batch, p);', ""),
        ("dropped check", 'check_row("key_padding", p.key_padding, p.key_padding_batch, p.Nk);', ""),
        (
            "off by one",
            "static_cast<uint64_t>(static_cast<int64_t>(line[i])) >= bound;",
            "static_cast<uint64_t>(static_cast<int64_t>(line[i])) > bound;",
        ),
    ),
    *faults(
        "csrc/attention/dispatch.cpp",
        ATTENTION,
        ("index", "plan.head_maps + (sample * p.H + head) * size", "plan.head_maps + head * size"),
        (
            "wrong branch",
            "if (params.Nk == 0 || params.H == 0) return fill_zero(params);",
            "if (params.Nk == 0 || params.H == 0) return;",
        ),
        (
            "size",
            "parallel_for(params.B * params.Hk, prepared.workers(), &call, pack);",
            "parallel_for(params.Hk, prepared.workers(), &call, pack);",
        ),
    ),
    *faults(
        "csrc/lowrank_linear/lowrank_linear_cpu.cpp",
        LOWRANK,
        (
            "stride",
            "gemm<Dot>(rows, vecs, a + i, stride_a, b + i * kStrip, kStrip,",
            "gemm<Dot>(rows, vecs, a + i, stride_a, b, kStrip,",
        ),
        ("wrong value", "onto || i ? kOnes.values : nullptr", "onto ? kOnes.values : nullptr"),
        ("index", "(first_row_ + row) * p_.gate.row;", "row * p_.gate.row;"),
        ("dropped check", "fits = fits && holds(tile_.h, used, (count + kRowSlack) * units);", ""),
        ("off by one", "begin <= last", "begin < last - kSquare"),
        (
            "mask",
            "count += gate_of(r)[which * p_.gate.column] != 0.0f;",
            "count += gate_of(r)[which * p_.gate.column] > 0.0f;",
        ),
        ("index", "const float* gate = gate_of(term.rows ? term.rows[i] : i);", "const float* gate = gate_of(i);"),
        (
            "mask",
            "const bool counts = concepts[i] >= 0 && (which < 0 || concepts[i] == which);",
            "const bool counts = concepts[i] >= 0;",
        ),
        ("index", "float* to = sums + term.rows[r] * kStrip;", "float* to = sums + r * kStrip;"),
        ("wrong value", "if (base) y = add(y, load_part(base + j, left));", ""),
        ("stride", "const int64_t stride = plan_.rows;", "const int64_t stride = plan_.rows + kSquare;"),
        ("off by one", "c < kSquare && corner + c < columns", "c < kSquare && corner + c <= columns"),
        (
            "size",
            "terms = carver.take<Term<Unit>>(larger_of(concepts, plan.ranks / kSquare));",
            "terms = carver.take<Term<Unit>>(1);",
        ),
    ),
    *faults(
        "csrc/lowrank_linear/pack.h",
        LOWRANK,
        ("mask", "for (; i < units; i += kLanes) store(to + i, splat(0.0f));", ""),
        ("off by one", "const uint32_t high = lines > 1 &&", "const uint32_t high = lines > 0 &&"),
        ("stride", "data + (line + i) * stride + unit * kValues : data", "data + (line + i) * stride + unit : data"),
        ("mask", "const bool there = line + i < lines && count > 0;", "const bool there = count > 0;"),
    ),
    *faults(
        "csrc/lowrank_linear/dispatch.cpp",
        LOWRANK,
        ("size", "plan.ranks = round_up(plan.R, 2 * kSquare);", "plan.ranks = round_up(plan.R, kSquare);"),
        ("off by one", "return (a + b - 1) / b;", "return (a + b) / b;"),
        ("wrong branch", "(plan.by_strip ? tile : worker) * tile_bytes", "worker * tile_bytes"),
        (
            "index",
            "call.kernels.pack_up(call.plan, task - call.plan.rank_strips);",
            "call.kernels.pack_up(call.plan, task);",
        ),
        ("wrong branch", "if (call.plan.R) call.run", "if (call.plan.R > 16) call.run"),
    ),
    *faults(
        "csrc/lowrank_linear/check.cpp",
        LOWRANK,
        ("dropped check", 'if (p.gate.data && p.ranks.empty()) refuse("`gate` must be null without ranks");', ""),
        ("dropped check", 'check_addend("residual", p.residual, p);', ""),
        (
            "wrong axis",
            "p.out.column == 1 ? addend.column != 1 : addend.row != 1",
            "p.out.column == 1 ? addend.row != 1 : addend.column != 1",
        ),
    ),
    *faults(
        "csrc/include/weft/gemm.h",
        BOTH,
        ("stride", "Dot::load(b + i * stride_b + j * kLanes)", "Dot::load(b + i * stride_b)"),
        (
            "wrong branch",
            "store(to, decay ? fmadd(load(to), splat(decay[r]), acc[r][j]) : acc[r][j]);",
            "store(to, acc[r][j]);",
        ),
    ),
    *faults(
        "csrc/include/weft/workspace.h",
        WORKSPACE,
        ("off by one", "first <= span.size - count;", "first <= span.size - count + 1;"),
        ("dropped check", "if (!holds(span, first, count)) fail_outside_workspace(first, count, span.size);", ""),
        (
            "dropped check",
            "if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product))",
            "if (__builtin_mul_overflow(a, b, &product))",
        ),
        ("size", "span.size * static_cast<int64_t>(sizeof(T)) / int64_t{sizeof(To)}", "span.size"),
    ),
    *faults(
        "csrc/device/parallel.cpp",
        f"{WORKSPACE} tests/csrc/test_attention_cpu.py -k 'carvers or threads'",
        ("off by one", "if (task >= region.tasks) return;", "if (task + 1 >= region.tasks) return;"),
        ("wrong value", "run(context, task, 0);", "run(context, 0, 0);"),
        ("dropped check", "if (region.error) std::rethrow_exception(region.error);", ""),
    ),
    *faults(
        "csrc/bindings.cpp",
        BOTH,
        ("index", 'p.v_stride = head_strides("v", strides[2]);', 'p.v_stride = head_strides("v", strides[1]);'),
        ("dropped check", "if (s[3] != 1) throw", "if (s[3] < 1) throw"),
    ),
]
