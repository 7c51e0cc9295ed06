"""What to type for the project's commands, which differs between a checkout and an installation."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Optional

from passl.utils.text import as_text


def command(name: str) -> str:
    """Returns what calls a command: ``python tools/eval.py`` to those who call them that way.

    Everyone else has the package installed, and gets ``passl eval``.

    Args:
        name: of the command, a module of ``passl/cli``.
    """
    tool = _tool(name)
    return f"passl {name}" if tool is None else f"python {tool}"


def launched_command(name: str) -> str:
    """Returns what starts a command as several processes on the GPUs 0 and 1.

    Paddle's launcher takes a file, which it looks for in this folder alone.
    """
    tool = _tool(name)
    script = f'"$(command -v passl)" {name}' if tool is None else tool
    return f"python -m paddle.distributed.launch --gpus 0,1 {script}"


def word(text: str) -> str:
    r"""Returns a text as one word of a shell's command; bytes that are not UTF-8 as ``$'\xc6'``."""
    if as_text(text) == text:
        return shlex.quote(text)
    return "$'" + as_text(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def _tool(name: str) -> Optional[Path]:
    called = Path(sys.argv[0])
    is_tool = called.parent.name == "tools" and called.suffix == ".py"
    return called.with_name(f"{name}.py") if is_tool else None
