"""The registry of text towers."""

from passl.utils.registry import Registry

TEXTS = Registry("text tower")
