"""Hooks: what happens around the steps of a run. A new file here registers itself.

The console, VisualDL and checkpoints are hooks like any other; a config adds more by name under
``hooks``.
"""

from __future__ import annotations

from typing import List

from passl.evaluation import Evaluator
from passl.hooks.base import HOOKS, Hook, Run
from passl.utils.config import Config, origin_of
from passl.utils.discovery import import_modules
from passl.utils.errors import PasslError

import_modules(__name__, __path__)

# The order in which they look on.
_ALWAYS = ("VisualDL", "Console", "Checkpoint")


def build_hooks(cfg: Config, evaluator: Evaluator, is_first: bool = True) -> List[Hook]:
    """Builds the built-in hooks and those that a config adds, which come before Checkpoint.

    In a process that is not the first of its run only those that every process needs are left.

    Args:
        cfg: the whole config.
        evaluator: the run's.
        is_first: whether this is the first process.

    Raises:
        PasslError: a hook cannot be built, or not look on at such a run.
    """
    always = [{"name": name} for name in _ALWAYS]
    hooks = []
    for section in [*always[:-1], *cfg.hooks, *always[-1:]]:
        hook = HOOKS.build(section)
        try:
            hook.check(cfg, evaluator)
        except PasslError as error:
            error.place = error.place or origin_of(section)
            raise
        hooks.append(hook)
    return [hook for hook in hooks if is_first or hook.in_every_process]


__all__ = ["HOOKS", "Hook", "Run", "build_hooks"]
