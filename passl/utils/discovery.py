"""Importing every module of a package, so that adding a part is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Iterable


def import_modules(package: str, path: Iterable[str]) -> None:
    """Imports all modules of ``package``, whose decorators then register what they define."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
