"""What a branch costs that is used again across steps: a tiny one through the whole path."""

from __future__ import annotations

import torch


def test_everybody_with_a_branch_at_every_step_finds_the_same() -> None:
    from benchmarks import registry

    benchmark = registry.load("task_branch")
    (shape,) = registry.select("shape", benchmark.shapes, ("tiny",))
    painting = benchmark.make_inputs(shape, torch.float32)
    for mode in benchmark.modes:
        for provider in mode.providers:
            benchmark.verify(painting, provider, provider.prepare(painting)())
    assert painting.expected is not None and painting.expected.shape == (1, 4, 8, 8)
    assert "forward" not in vars(painting.pipe.unet)


def test_error_and_its_share() -> None:
    from benchmarks import registry
    from benchmarks.measuring.branch_reuse import measured, text

    benchmark = registry.load("task_branch")
    (shape,) = registry.select("shape", benchmark.shapes, ("tiny",))
    found = measured(benchmark.make_inputs(shape, torch.float32), (2, 3), 1)
    assert list(found) == ["without", "reuse_1", "reuse_2", "reuse_3"]
    assert found["reuse_1"]["error"] == 0.0 and found["without"]["share"] == 1.0
    assert found["reuse_2"]["error"] > 1e-4 and all(len(way["seconds"]) == 1 for way in found.values())
    assert "the branch is untrained" in text(found)
