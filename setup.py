"""Builds the one extension, `tower._fast`; everything else about the package stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

flags = ["-O2", "-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter"]
if os.environ.get("TOWER_SANITIZE"):  # address and undefined-behaviour sanitizers, for the property tests
    flags += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "tower._fast",
                ["tower/_fast.pyx"],
                extra_compile_args=flags,
                extra_link_args=[flag for flag in flags if flag.startswith("-fsanitize")],
            )
        ],
        annotate=bool(os.environ.get("TOWER_ANNOTATE")),
    )
)
