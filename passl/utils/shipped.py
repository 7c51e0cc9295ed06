"""Where the configs and the model zoo stand that come with the package."""

from __future__ import annotations

from pathlib import Path


def config_root() -> Path:
    """Returns the folder: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
