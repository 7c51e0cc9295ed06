"""The registry of architectures."""

from passl.utils.registry import Registry

ARCHITECTURES = Registry("architecture")
