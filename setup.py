"""Package map and native module: csrc/ -> weft._native, kernels/ -> weft.kernels, python/weft -> weft.

``build_native.py`` beside this file builds the module.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# a build front end runs this file without its folder on the path
sys.path.insert(0, str(Path(__file__).resolve().parent))

import build_native as native


class NinjaBuild(build_ext):
    """Builds the one extension by ninja in build/native-<platform>, so that a second build does only what changed."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        output.unlink(missing_ok=True)  # an older build in the same folder must not pass for this one
        missing = native.missing_for_native()
        # a compiler that is there and fails is an error; only a missing one may be passed over
        ext.optional = bool(missing) and not native.switch("WEFT_NATIVE")
        if missing:
            raise CompileError(f"this machine lacks {' and '.join(missing)}; {native.WITHOUT_NATIVE}")
        folder = native.ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"
        try:
            library = native.build_library(folder, output.name)
        except native.BuildError as error:
            raise CompileError(str(error)) from None
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, output)


def extensions() -> list[Extension]:
    """weft._native, unless it is left out; a machine without a compiler gets the package without it."""
    try:
        wanted = native.switch("WEFT_NATIVE")
    except native.BuildError as error:
        raise SystemExit(f"setup: {error}") from None
    return [] if wanted is False else [Extension("weft._native", [], optional=True)]


ops = find_packages("kernels")  # kernels/<op>/ -> weft.kernels.<op>
setup(
    packages=find_packages("python") + [f"weft.kernels.{op}" for op in ops],
    package_dir={"": "python", **{f"weft.kernels.{op}": f"kernels/{op.replace('.', '/')}" for op in ops}},
    package_data={
        "": ["*.pyi"],
        "weft": ["py.typed"],
        "weft.evaluation": ["judge/weights/**"],
        "weft.shapes": ["models/**"],
    },
    include_package_data=False,
    ext_modules=extensions(),
    cmdclass={"build_ext": NinjaBuild},
)
