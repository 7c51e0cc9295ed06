"""The registry of tokenizers."""

from passl.utils.registry import Registry

TOKENIZERS = Registry("tokenizer")
