"""Only a family knows its models: no other file asks a model or a pipeline what it has, or of which class it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from packages import ROOT

FAMILIES = "python/weft/attach/families/"
# models of transformers, which look at pictures or read text for a loss
OTHER_MODELS = ("python/weft/train/gan/", "python/weft/train/distribution/vision.py")
# where models of diffusers come in
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("attach", "methods", "train", "commands", "serving", "ui")
    for path in (ROOT / "python/weft" / folder).rglob("*.py")
    if not str(path.relative_to(ROOT)).startswith(OTHER_MODELS)
)
# names that a model or a part of a pipeline goes by
MODELS = frozenset(
    [
        "attn",
        "block",
        "config",
        "denoiser",
        "host",
        "model",
        "module",
        "network",
        "pipe",
        "pipeline",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "transformer",
        "unet",
        "vae",
    ]
)
# (file, attribute asked for) -> why it stays
ALLOWED = {
    ("attach/text/listener.py", "maybe_convert_prompt"): "a mixin of diffusers for textual inversion",
    ("attach/text/learnt_words.py", "maybe_convert_prompt"): "a mixin of diffusers for textual inversion",
    ("attach/text/pieces.py", "is_fast"): "a tokenizer of mistral-common does not say; it gives no offsets",
    ("attach/text/tokenized.py", "convert_ids_to_tokens"): "a processor in a tokenizer's place has one of its own",
    ("commands/inpaint.py", "name_or_path"): "where a pipeline came from; one made by hand does not know",
    ("commands/loading.py", "unet"): "loads any pipeline of diffusers, of no family too, and asks for its size",
    ("methods/inpainting/host.py", "encode_prompt"): "refuses what is no pipeline, in the words of the method",
    ("methods/inpainting/host.py", "unet"): "refuses a pipeline of another family, in the words of the method",
    ("train/task_prompts/unet.py", "unet"): "refuses a pipeline of another family, in the words of the fit",
    ("train/task_prompts/unet.py", "_progress_bar_config"): "set by users of a pipeline, and absent until then",
    ("train/task_prompts/fit.py", "peft_config"): "peft adds it with the first adapter",
}


def probes(source: str) -> Iterator[tuple[str, str]]:
    """(attribute or class asked for, line) of every probe of a model."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "diffusers"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1):
            continue
        subject, asked = node.args[:2]
        if node.func.id in ("hasattr", "getattr") and _last_name(subject).lstrip("_") in MODELS:
            # a name that is worked out, as of a field of a dataclass, is no probe of what a model has
            if isinstance(asked, ast.Constant):
                yield str(asked.value), ast.unparse(node)
        elif node.func.id in ("isinstance", "issubclass"):
            classes = {inner.id for inner in ast.walk(asked) if isinstance(inner, ast.Name)}
            yield from ((name, ast.unparse(node)) for name in sorted(classes & imported))


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def probed(source: str, path: str) -> list[str]:
    """Probes of a file that nothing allows."""
    if path.startswith(FAMILIES):
        return []
    inner = path.removeprefix("python/weft/")
    return [f"{path}: {line}" for asked, line in probes(source) if (inner, asked) not in ALLOWED]


@pytest.mark.parametrize("path", FILES)
def test_only_families_probe_models(path: str) -> None:
    assert probed((ROOT / path).read_text(), path) == []


def test_what_is_allowed_is_there() -> None:
    found = {
        (path.removeprefix("python/weft/"), asked) for path in FILES for asked, _ in probes((ROOT / path).read_text())
    }
    assert ALLOWED.keys() - found == set()


@pytest.mark.parametrize(
    ("path", "line", "is_caught"),
    [
        ("python/weft/train/soft_tokens/layout.py", "hasattr(model, 'transformer_blocks')", True),
        ("python/weft/train/diffusion/latents.py", "getattr(self._pipe.vae.config, 'shift_factor', None)", True),
        ("python/weft/methods/soft_tokens/control.py", "getattr(pipe, 'tokenizer_3', None)", True),
        (
            "python/weft/attach/projections.py",
            "from diffusers import Transformer2DModel as T\nisinstance(x, (int, T))",
            True,
        ),
        ("python/weft/attach/families/unet.py", "hasattr(model, 'add_embedding')", False),
        ("python/weft/train/soft_tokens/config.py", "getattr(config, name)", False),
        ("python/weft/train/soft_tokens/config.py", "isinstance(value, int)", False),
    ],
)
def test_a_planted_probe_is_judged(path: str, line: str, is_caught: bool) -> None:
    assert bool(probed(line, path)) == is_caught
