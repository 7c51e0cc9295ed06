"""Checks of arguments that all backbones take."""

from __future__ import annotations

from typing import Sequence, Union

from passl.utils.errors import PasslError


def check_sizes(least: int = 1, **sizes: Union[int, Sequence[int]]) -> None:
    """Raises a PasslError that names the first size, or list with a size, below ``least``."""
    for name, given in sizes.items():
        smallest = given if isinstance(given, int) else min(given)
        if smallest < least:
            raise PasslError(f"{name} must be at least {least}, not {smallest}")


def check_drop_rate(drop_rate: float) -> None:
    """Raises a PasslError where a probability of dropout is none."""
    if not 0.0 <= drop_rate < 1.0:
        raise PasslError(f"drop_rate lies in [0, 1), not {drop_rate}")
