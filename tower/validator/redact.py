"""Keeps a key that was typed or sent where it does not belong out of the line that says so.

>>> hide_keys("no such file: [" + ", ".join(["17"] * 64) + "]; check the path")
'no such file: [64 numbers, not repeated here]; check the path'
>>> hide_keys("slots 1, 2, 3")
'slots 1, 2, 3'
"""

from __future__ import annotations

import re

__all__ = ["hide_keys"]

NUMBERS = re.compile(r"\d{1,3}(?:[\s,;]{1,8}\d{1,3}){15,}")  # what a keypair file looks like, or a part of one
NUMBER = re.compile(r"\d+")


def hide_keys(text: str) -> str:
    """`text` without any row of 16 or more small numbers, the form in which keypair files have a secret."""
    return NUMBERS.sub(lambda found: f"{len(NUMBER.findall(found[0]))} numbers, not repeated here", text)
