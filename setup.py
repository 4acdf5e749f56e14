"""Builds the extensions; everything else about the package stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

EXTENSIONS = ("_fast", "_read", "_tree")

flags = ["-O2", "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wno-unused-parameter"]
if os.environ.get("TOWER_SANITIZE"):  # address and undefined-behaviour sanitizers, for the property tests
    flags += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"tower.{name}",
                [f"tower/{name}.pyx"],
                extra_compile_args=flags,
                extra_link_args=[flag for flag in flags if flag.startswith("-fsanitize")],
            )
            for name in EXTENSIONS
        ],
        annotate=bool(os.environ.get("TOWER_ANNOTATE")),
    )
)
