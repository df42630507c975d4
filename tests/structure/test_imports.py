"""What importing weft does and does not do, in fresh interpreters: no GPU, triton, native module or network needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

# a name that is None in sys.modules cannot be imported, as if it were not installed
BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))"
NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError(f"the network was asked for {args}")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


def python(code: str, *, without: tuple[str, ...] = (), **environment: str) -> Any:
    """Run ``code`` in a new interpreter; what it prints, read as JSON."""
    script = "\n".join([BLOCK.format(names=without), NO_NETWORK, textwrap.dedent(code)])
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "TRITON_", "HF_"))}
    command = [sys.executable, "-W", "error::DeprecationWarning:weft", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={**env, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


HEAVY = {"torch", "numpy", "diffusers", "transformers", "accelerate", "triton", "tyro", "cv2", "scipy", "weft._native"}


def test_import_is_light() -> None:
    loaded = python("import json, sys, weft; print(json.dumps(sorted(sys.modules)))")
    assert "weft" in loaded
    assert not HEAVY & set(loaded)


def test_the_command_line_is_light() -> None:
    """Help comes at once, and so does a refusal."""
    loaded = python("import json, sys, weft.cli, weft.commands.command_line; print(json.dumps(sorted(sys.modules)))")
    assert not (HEAVY - {"tyro"}) & set(loaded)


@pytest.mark.parametrize("fit", ["residual", "soft_tokens", "task_prompts", "gan", "distribution", "core", "shapes"])
def test_configurations_are_plain_data(fit: str) -> None:
    module = "weft.shapes.fitting.config" if fit == "shapes" else f"weft.train.{fit}.config"
    loaded = python(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")
    assert module in loaded
    assert not (HEAVY - {"tyro"}) & set(loaded)


def test_ops_and_attach_start_no_gpu_and_no_triton() -> None:
    code = """
        import json, sys, torch, weft
        weft.ops.attention, weft.AttentionMaps, weft.attach
        triton_files = [name for name in sys.modules if name.endswith((".fwd", ".bwd"))]
        print(json.dumps([torch.cuda.is_initialized(), triton_files]))
    """
    assert python(code) == [False, []]


def test_environment_is_left_alone() -> None:
    code = """
        import json, os
        before = dict(os.environ)
        import weft
        weft.ops.attention
        print(json.dumps(sorted(set(before.items()) ^ set(os.environ.items()))))
    """
    assert python(code) == []


ATTEND = """
    import json, torch, weft
    q, k, v = torch.randn(3, 1, 6, 2, 8)
    out = weft.ops.attention(q, k, v)
    want = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    error = (out - want).abs().max().item()
    try:
        weft.ops.attention(q, k, v, backend={backend!r})
        refusal = None
    except weft.BackendUnavailableError as caught:
        refusal = str(caught)
    print(json.dumps([error, refusal]))
"""


@pytest.mark.parametrize("without", [("weft._native",), ("triton",), ("weft._native", "triton")], ids=" and ".join)
def test_attention_works_without(without: tuple[str, ...]) -> None:
    error, _ = python(ATTEND.format(backend="reference"), without=without)
    assert error < 1e-5


def test_cpu_backend_says_how_to_get_the_native_module() -> None:
    _, refusal = python(ATTEND.format(backend="cpu"), without=("weft._native",))
    assert "weft._native" in refusal
    assert "compiler" in refusal


def test_doctor_works_without_native_and_triton() -> None:
    code = """
        import json
        from weft import _doctor
        print(json.dumps(_doctor.render(_doctor.examine())))
    """
    text = python(code, without=("weft._native", "triton"))
    assert "not built" in text
    assert "compiler" in text
