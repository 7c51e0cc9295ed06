"""Old names of modules that have moved: they import what stands under the new ones.

A name is kept for code outside of this package; within it, and in its documentation, the new ones
are used.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Optional

_ROOMS = {
    "engine": {
        "deployment": ["export", "predictor", "runtimes"],
        "distributed": ["interrupts", "peers", "processes"],
        "evaluation": ["metrics", "report"],
        "inspection": ["benchmarks", "costs", "dry_run", "pictures", "visualization"],
    },
    "datasets": {
        "datasets.images": ["decoding", "failures", "resampling"],
        "datasets.loading": ["handover", "loader", "sampler", "watch"],
        "datasets.sources": [
            "catalog",
            "cifar10",
            "class_names",
            "files",
            "image_files",
            "layouts",
            "packing",
            "paths",
            "synthetic",
        ],
    },
}
MOVED = {
    f"passl.{old}.{name}": f"passl.{new}.{name}"
    for old, rooms in _ROOMS.items()
    for new, names in rooms.items()
    for name in names
}
MOVED["passl.engine.create_model"] = "passl.building"
MOVED["passl.engine.evaluator"] = "passl.evaluation"
MOVED["passl.hooks.metrics_file"] = "passl.utils.records"
MOVED["passl.modeling.network"] = "passl.modeling.architectures.classifier"


class _Moved(MetaPathFinder, Loader):
    """Finds the module of an old name under its new one; both are then the same object."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Optional[ModuleSpec]:
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._spec = module.__spec__  # which importlib is about to overwrite
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def keep_old_names() -> None:
    """Makes the old names importable; asked for once, when the package is imported."""
    sys.meta_path.append(_Moved())
