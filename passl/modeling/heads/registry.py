"""The registry of heads."""

from passl.utils.registry import Registry

HEADS = Registry("head")
