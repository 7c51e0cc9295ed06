"""The command lines: parse arguments, build, call the engine."""

import importlib.util
import sys
from pathlib import Path

from passl.utils.environment import import_paddle

CHECKOUT = Path(__file__).resolve().parents[2]
# What requirements.txt asks for, by the names that Python knows it by.
REQUIRED = (
    "PIL", "ftfy", "matplotlib", "ml_dtypes", "numba", "numpy", "omegaconf", "regex", "safetensors",
    "shtab", "simplejpeg", "tqdm", "typeguard", "visualdl", "yaml",
)  # fmt: skip


def what_is_missing() -> str:
    """Returns what must be installed before any command can run, and how; empty where all is."""
    in_checkout = (CHECKOUT / "setup.py").is_file()
    if not import_paddle():
        install = f'pip install -e "{CHECKOUT}[cpu]"' if in_checkout else "pip install paddlepaddle"
        return (
            f"PaddlePaddle is not installed: run  {install}  on a machine without a GPU; those "
            "for GPUs are at https://www.paddlepaddle.org.cn/en/install/quick"
        )
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing and in_checkout:
        return f'{", ".join(missing)}: not installed: run  pip install -e "{CHECKOUT}"'
    return ""


if what_is_missing():
    print(f"error: {what_is_missing()}", file=sys.stderr)
    sys.exit(2)
