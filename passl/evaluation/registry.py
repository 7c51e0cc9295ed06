"""The registry of evaluators."""

from passl.utils.registry import Registry

EVALUATORS = Registry("evaluator")
