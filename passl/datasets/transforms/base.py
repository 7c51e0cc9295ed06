"""What the rest of the project may ask a transform, beside calling it."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from passl.utils.errors import PasslError


class Transform:
    """A transform of one sample.

    A transform of a user's own need not inherit from this; ``stated`` gives the defaults then.

    Attributes:
        size: height and width in pixels of the images that it returns; None where they depend on
            the images that it is given.
        crop_ratio: the share of an evaluation view's sides that its crop shows; None where the
            transform crops for training, or nothing.
    """

    size: Optional[Tuple[int, int]] = None
    crop_ratio: Optional[float] = None

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        """Returns the sample with its fields changed; the one that is given stays as it is."""
        raise NotImplementedError


class BatchTransform:
    """A transform of a whole batch, of tensors on the device.

    A transform of a user's own need not inherit from this; ``stated`` gives the defaults then.

    Attributes:
        random: whether it draws from ``rng``, and so belongs to training.
        mean, std: what images are normalised by, one value a channel on the scale of 0 to 1, so
            that a picture can be made of them again; None where it normalises nothing.
    """

    random: bool = False
    mean: Optional[Sequence[float]] = None
    std: Optional[Sequence[float]] = None

    def __call__(
        self, batch: Dict[str, Any], rng: Optional[np.random.Generator] = None
    ) -> Dict[str, Any]:
        """Returns the batch with its fields changed; the one that is given stays as it is."""
        raise NotImplementedError


def check_probability(probability: float) -> None:
    """Raises a PasslError where a probability is none."""
    if not 0 <= probability <= 1:
        raise PasslError(f"probability lies in [0, 1], not {probability}")


def stated(transform: Any, contract: type, name: str) -> Any:
    """Returns what a transform, or its class, states about itself.

    Args:
        transform: of any class.
        contract: ``Transform`` or ``BatchTransform``, which has the default.
        name: one of its attributes.
    """
    return getattr(transform, name, getattr(contract, name))


def last_stated(transforms: Sequence[Any], contract: type, name: str) -> Any:
    """Returns what the last of some transforms that states an attribute says; None where none does.

    Args:
        transforms: in the order in which they are applied.
        contract, name: see ``stated``.
    """
    found = [stated(transform, contract, name) for transform in transforms]
    return next((value for value in reversed(found) if value is not None), None)
