"""What draws the board of a run: one file for each library. A new file here registers itself.

What is drawn is in ``passl/hooks/board.py``; a config names the libraries in ``log_config.boards``.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence, Union

from passl.hooks.boards.base import BOARDS, Writer
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_boards(sections: Sequence[Union[str, Mapping[str, Any]]]) -> List[Writer]:
    """Builds what a config names, each by its name or by a mapping with ``name`` and arguments.

    What is named twice is built once.
    """
    named = [{"name": one} if isinstance(one, str) else one for one in sections]
    writers = [BOARDS.build(section) for section in named]
    return list({type(writer): writer for writer in writers}.values())


__all__ = ["BOARDS", "Writer", "build_boards"]
