"""What the errors of a GPU, its driver and its memory mean to the user."""

from __future__ import annotations

import re
from typing import Optional

from passl.utils.errors import PasslError

_BUILD = (
    "this GPU, its driver and this build of PaddlePaddle do not fit together: compare the CUDA "
    "version that nvidia-smi shows with that of paddle.version.cuda(), and install the build for "
    "it or a newer driver"
)
# What Paddle's messages hold -> what happened, and what to do.
_MEANINGS = (
    (r"Out of memory error on GPU", "the GPU's memory is full; {memory}"),
    (r"ResourceExhausted|Fail to alloc memory|bad_alloc", "the memory is full; {memory}"),
    (r"driver version is insufficient|unsupported display driver|error\(803\)", _BUILD),
    (r"no kernel image is available|not compiled with .*compute capability", _BUILD),
    (
        r"dynamic library .*(cudnn|cublas|nccl|cuda)|lib(cudnn|cublas|nccl)[^ ]* .*not found",
        "a library of CUDA is missing that PaddlePaddle needs: its path belongs in "
        'LD_LIBRARY_PATH; python -c "import paddle; paddle.utils.run_check()" tells more',
    ),
    (
        r"NCCL error\([1345]\)",
        "NCCL failed, through which the GPUs exchange; with NCCL_DEBUG=INFO in the environment it "
        "says why; then {again}",
    ),
    (
        r"CUDA error\(\d+\)|CUDNN error\(\d+\)|CUBLAS error\(\d+\)",
        "the GPU reported an error; look into dmesg and nvidia-smi, then {again}",
    ),
)


def explain_device_error(error: BaseException, memory: str, again: str) -> Optional[PasslError]:
    """Returns what to tell the user where an error is one of the device's, or None.

    Args:
        error: any.
        memory: what the user can do about a full memory.
        again: what to do when the device is in order again.
    """
    text = str(error)
    if isinstance(error, MemoryError):  # Python's and NumPy's say so in words of their own
        text = (
            text if re.search(_MEANINGS[0][0], text, re.IGNORECASE) else f"bad_alloc {text}".strip()
        )
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            line = next(line for line in text[found.start() :].splitlines() if line.strip())
            what = meaning.replace("{memory}", memory).replace("{again}", again)
            return PasslError(f"{what} ({line.strip()[:200]})")
    return None
