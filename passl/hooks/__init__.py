"""Hooks: what happens around the steps of a run. A new file here registers itself.

The console, VisualDL and checkpoints are hooks like any other; a config adds more by name under
``hooks``.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence

from passl.hooks.base import HOOKS, Hook, Run
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)

# The order in which they look on.
_ALWAYS = ("VisualDL", "Console", "Checkpoint")


def build_hooks(extra: Sequence[Mapping[str, Any]], is_first: bool = True) -> List[Hook]:
    """Builds the built-in hooks and those that a config adds, which come before Checkpoint.

    In a process that is not the first of its run only those that every process needs are left.
    """
    built = [HOOKS.build({"name": name}) for name in _ALWAYS]
    hooks = built[:-1] + [HOOKS.build(cfg) for cfg in extra] + built[-1:]
    return [hook for hook in hooks if is_first or hook.in_every_process]


__all__ = ["HOOKS", "Hook", "Run", "build_hooks"]
