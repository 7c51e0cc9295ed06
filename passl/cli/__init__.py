"""The command lines: parse arguments, build, call the engine."""

import importlib.util
import sys
from pathlib import Path

from passl.utils.environment import import_paddle

CHECKOUT = Path(__file__).resolve().parents[2]
# What requirements.txt asks for, by the names that Python knows it by.
REQUIRED = (
    "PIL", "fontTools", "ftfy", "matplotlib", "ml_dtypes", "numba", "numpy", "omegaconf", "psutil",
    "regex", "requests", "safetensors", "shtab", "simplejpeg", "tqdm", "typeguard", "visualdl",
    "yaml",
)  # fmt: skip


def what_is_missing() -> str:
    """Returns what must be installed before any command can run, and how; empty where all is."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if not import_paddle():
        missing = ["PaddlePaddle"]
    in_checkout, environment = (CHECKOUT / "setup.py").is_file(), CHECKOUT / ".venv"
    if not missing or not in_checkout and missing != ["PaddlePaddle"]:
        return ""
    said = f"{', '.join(missing)}: not installed for {sys.executable}: run  "
    if (environment / "bin" / "activate").is_file() and Path(sys.prefix) != environment:
        return f"{said}. {environment}/bin/activate"
    if missing != ["PaddlePaddle"]:
        return f'{said}pip install -e "{CHECKOUT}"'
    install = f'pip install -e "{CHECKOUT}[cpu]"' if in_checkout else "pip install paddlepaddle"
    return (
        f"{said}{install}  on a machine without a GPU; the builds for GPUs are at "
        "https://www.paddlepaddle.org.cn/en/install/quick"
    )


if what_is_missing():
    print(f"error: {what_is_missing()}", file=sys.stderr)
    sys.exit(2)
