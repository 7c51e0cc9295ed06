"""What the errors of a GPU, its driver and its memory mean to the user."""

from __future__ import annotations

import re
from typing import Optional

from passl.utils.errors import PasslError

_MEMORY = (
    "lower dataloader.train.sampler.batch_size and set global_batch_size to keep the images of a "
    "step, or set recompute=true"
)
_BUILD = (
    "this GPU, its driver and this build of PaddlePaddle do not fit together: compare the CUDA "
    "version that nvidia-smi shows with that of paddle.version.cuda(), and install the build for "
    "it or a newer driver"
)
# What Paddle's messages hold -> what happened, and what to do.
_MEANINGS = (
    (r"Out of memory error on GPU", f"the GPU's memory is full; {_MEMORY}, or use amp"),
    (r"ResourceExhausted|Fail to alloc memory|bad_alloc", f"the memory is full; {_MEMORY}"),
    (r"driver version is insufficient|unsupported display driver|error\(803\)", _BUILD),
    (r"no kernel image is available|not compiled with .*compute capability", _BUILD),
    (
        r"dynamic library .*(cudnn|cublas|nccl|cuda)|lib(cudnn|cublas|nccl)[^ ]* .*not found",
        "a library of CUDA is missing that PaddlePaddle needs: its path belongs in "
        'LD_LIBRARY_PATH; python -c "import paddle; paddle.utils.run_check()" tells more',
    ),
    (
        r"CUDA error\(\d+\)|CUDNN error\(\d+\)|CUBLAS error\(\d+\)",
        "the GPU reported an error; look into dmesg and nvidia-smi, then --resume auto",
    ),
)


def explain_device_error(error: BaseException) -> Optional[PasslError]:
    """Returns what to tell the user where an error is one of the device's, or None."""
    text = str(error)
    if isinstance(error, MemoryError) and not text:
        text = "bad_alloc"
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            line = next(line for line in text[found.start() :].splitlines() if line.strip())
            return PasslError(f"{meaning} ({line.strip()[:200]})")
    return None
