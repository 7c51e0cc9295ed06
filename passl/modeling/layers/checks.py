"""Checks of arguments that all backbones take."""

from __future__ import annotations

from passl.utils.errors import PasslError


def check_sizes(**sizes: int) -> None:
    """Raises a PasslError that names the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise PasslError(f"{name} must be at least 1, not {size}")


def check_drop_rate(drop_rate: float) -> None:
    """Raises a PasslError where a probability of dropout is none."""
    if not 0.0 <= drop_rate < 1.0:
        raise PasslError(f"drop_rate lies in [0, 1), not {drop_rate}")
