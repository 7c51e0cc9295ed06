"""What must be set before ``import paddle``, and what a run records about its machine.

Paddle reads ``OMP_NUM_THREADS`` at import and sets it to 1 where it is unset, and its
bundled MKL takes a slow code path on AMD processors unless ``MKL_DEBUG_CPU_TYPE=5`` is in
the environment. Together they make Mixer on an AMD CPU about twice as fast (measured by
``benchmarks/cpu_environment.py``). Memory that was freed is kept, see ``passl/utils/heap.py``.
A value that the user has set is never changed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import subprocess
import sys
import warnings
import zlib  # noqa: F401  Paddle 2.6.2 crashes when zlib is first loaded after it.
from typing import Dict, List

from passl.utils.errors import PasslError
from passl.utils.heap import keep_freed_memory
from passl.utils.version import __version__

# What prepare_environment() set, for the log.
_applied: List[str] = []


def available_cores() -> int:
    """Returns the number of processors this process may use (its affinity mask)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor_vendor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("vendor_id"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def prepare_environment() -> None:
    """Sets the variables that Paddle reads at import, unless the user has set them."""
    wanted = {"OMP_NUM_THREADS": str(available_cores())}
    # The switch is for AMD alone; its effect on Intel processors is not known.
    if _processor_vendor() == "AuthenticAMD":
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    # The launcher gives each of its processes a share of the cores itself.
    if "PADDLE_TRAINER_ID" in os.environ:
        wanted.pop("OMP_NUM_THREADS")
    if "paddle" in sys.modules:
        _applied.append("nothing (paddle was imported before passl)")
        _warn_of_late_import(wanted)
        return
    for variable, value in wanted.items():
        if variable not in os.environ:
            os.environ[variable] = value
            _applied.append(f"{variable}={value}")
    # Importing Paddle 3 warns about a compiler cache that only authors of C++ operators need.
    warnings.filterwarnings("ignore", message="No ccache found")


def _warn_of_late_import(wanted: Dict[str, str]) -> None:
    """Says what it costs that Paddle was imported first, where it does cost something."""
    if sys.modules["paddle"].is_compiled_with_cuda():
        return
    lost = []
    # Paddle has set it to 1 if it was not set.
    if os.environ.get("OMP_NUM_THREADS") == "1" != wanted.get("OMP_NUM_THREADS", "1"):
        lost.append(f"it computes with 1 thread on {wanted['OMP_NUM_THREADS']} cores")
    if "MKL_DEBUG_CPU_TYPE" in wanted and "MKL_DEBUG_CPU_TYPE" not in os.environ:
        lost.append("its MKL takes a slow path on AMD processors")
    if lost:
        warnings.warn(
            f"paddle was imported before passl: {' and '.join(lost)}; import passl first, "
            "which sets what you have not set yourself",
            stacklevel=4,  # the line that imports passl
        )


def import_paddle() -> bool:
    """Imports Paddle for the first time; returns False where it is not installed.

    Paddle warns on the error stream when ``OMP_NUM_THREADS`` is above 1, which is what
    ``prepare_environment`` has chosen; that warning alone is held back.
    """
    if importlib.util.find_spec("paddle") is None:
        return False
    caught = io.StringIO()
    with contextlib.redirect_stderr(caught):
        importlib.import_module("paddle")
    for line in caught.getvalue().splitlines():
        if "OMP_NUM_THREADS" not in line:
            print(line, file=sys.stderr)
    if not sys.modules["paddle"].is_compiled_with_cuda():
        _keep_memory()
    return True


def _keep_memory() -> None:
    done = keep_freed_memory()
    if done and done not in _applied:
        _applied.append(done)


def select_device(device: str, tf32: bool = True) -> str:
    """Makes ``cpu`` or ``gpu`` Paddle's current device; ``auto`` takes a GPU where one is.

    Args:
        device: ``auto``, ``cpu`` or ``gpu``.
        tf32: whether GPUs from A100 on may round the factors of float32 products to 10 bits of
            mantissa, as they do by default.

    Returns:
        ``"cpu"`` or ``"gpu"``, the device chosen.

    Raises:
        PasslError: a GPU was asked for and this build or machine has none.
    """
    import paddle

    has_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "auto":
        device = "gpu" if has_gpu else "cpu"
    if device == "gpu" and not has_gpu:
        if paddle.is_compiled_with_cuda():
            reason = "no GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES)"
        else:
            reason = (
                f"PaddlePaddle {paddle.__version__} here is the CPU build "
                "(https://www.paddlepaddle.org.cn/en/install/quick has the GPU builds)"
            )
        raise PasslError(f"device 'gpu' was asked for, but {reason}; use --device cpu instead")
    if not tf32:
        # NVIDIA's libraries read it when they are first used.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    if device == "cpu":
        _keep_memory()
    paddle.set_device(device)
    return device


def source_revision() -> str:
    """Returns the git commit of the checkout the code runs from, ``+changes`` when edited.

    Outside a checkout (an installed wheel) it is the package's version.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ("git", "-C", root) + arguments, capture_output=True, timeout=10, check=True
        )
        return os.fsdecode(done.stdout).strip()  # a folder's name need not be text

    try:
        # An installed package may lie inside some other project's repository.
        if os.path.samefile(git("rev-parse", "--show-toplevel"), root):
            changed = git("status", "--porcelain", "--untracked-files=no")
            return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return "passl " + __version__


def describe_environment(device: str) -> Dict[str, object]:
    """Returns what a number must be traced by: versions, machine, threads, commit, command."""
    import numpy
    import paddle

    return {
        "commit": source_revision(),
        "command": " ".join(sys.argv),
        "passl": __version__,
        "paddle": paddle.__version__,
        "numpy": numpy.__version__,
        "pillow": importlib.metadata.version("pillow"),
        "python": platform.python_version(),
        "machine": platform.node(),
        "device": device,
        "cores": available_cores(),
        "math_threads": os.environ.get("OMP_NUM_THREADS", "1"),
        "environment_set": list(_applied),
    }
