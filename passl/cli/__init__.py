"""The command lines: parse arguments, build, call the engine."""

import importlib.util
import sys

if importlib.util.find_spec("paddle") is None:
    print(
        "error: PaddlePaddle is not installed: run  pip install 'passl[cpu]'  on a machine "
        "without a GPU; for a GPU see the installation section of the README",
        file=sys.stderr,
    )
    sys.exit(2)
