"""From the bytes of a file to pixels of a given size."""

from passl.datasets.images.rgb_image import RgbImage

__all__ = ["RgbImage"]
