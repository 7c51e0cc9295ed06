"""The command lines: parse arguments, build, call the engine."""

import sys

from passl.utils.environment import import_paddle

if not import_paddle():
    print(
        "error: PaddlePaddle is not installed: run  pip install 'passl[cpu]'  on a machine "
        "without a GPU; for a GPU see the installation section of the README",
        file=sys.stderr,
    )
    sys.exit(2)
