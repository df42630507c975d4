"""Write ``instances/``: one tiny .cu for each dtype and head width, so that they compile side by side, and their list.

Run after changing the tables below: ``python csrc/attention/cuda/generate.py``. A test compares the files with this.
"""

from __future__ import annotations

from pathlib import Path

HEAD_WIDTHS = (40, 64, 72, 80, 88, 96, 112, 128, 160, 256)
SCALARS = {"half": "Half", "bfloat": "Bfloat"}

FOLDER = Path(__file__).resolve().parent / "instances"
NOTICE = "// Written by csrc/attention/cuda/generate.py.\n"


def files() -> dict[str, str]:
    """Name and text of every generated file."""
    names = {f"{scalar}_{width}": (kind, width) for scalar, kind in SCALARS.items() for width in HEAD_WIDTHS}
    # the list as clang-format leaves it: backslashes one below the other
    lines = ["#define WEFT_FOR_EACH_CUDA_INSTANCE(X)"]
    lines += [f"  X({kind}, {width}, attention_{name})" for name, (kind, width) in names.items()]
    longest = max(map(len, lines))
    rows = " \\\n".join([*(line.ljust(longest) for line in lines[:-1]), lines[-1]])
    texts = {"instances.h": f"{NOTICE}#pragma once\n\n{rows}\n"}
    for name, (kind, width) in names.items():
        texts[f"attention_{name}.cu"] = (
            f'{NOTICE}#include "attention/cuda/instance.cuh"\n\n'
            f"namespace weft {{\n"
            f"extern const CudaInstance attention_{name};\n"
            f"const CudaInstance attention_{name} = make_instance<{kind}, {width}>();\n"
            f"}}  // namespace weft\n"
        )
    return texts


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)
