"""The registry of backbones."""

from passl.utils.registry import Registry

BACKBONES = Registry("backbone")
