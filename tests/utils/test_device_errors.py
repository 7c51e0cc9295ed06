"""Errors of the device, in Paddle's own words, as one line that says what to do."""

import pytest

from passl.utils.device_errors import explain_device_error


# Of PaddlePaddle's source: paddle/fluid/memory/allocation, paddle/phi/core/enforce.h, and
# paddle/phi/backends/dynload. None of them could be provoked here, for want of a GPU.
@pytest.mark.parametrize(
    "error, text, meaning",
    [
        (
            MemoryError,
            "\n\n------\nC++ Traceback\n------\nResourceExhaustedError: \n\nOut of memory error on "
            "GPU 0. Cannot allocate 1.5GB memory on GPU 0, 15.1GB memory has been allocated and "
            "available memory is only 703.1MB.\n\nPlease check whether there is any other process",
            "the GPU's memory is full; lower the batch size",
        ),
        (MemoryError, "", "the memory is full; lower the batch size"),
        (
            MemoryError,
            "Unable to allocate 12.0 GiB for an array with shape (99999, 32210)",
            "the memory is full; lower the batch size",
        ),
        (
            OSError,
            "(External) CUDA error(35), CUDA driver version is insufficient for CUDA runtime "
            "version. \n  [Hint: 'cudaErrorInsufficientDriver'.]",
            "do not fit together",
        ),
        (
            OSError,
            "(External) CUDA error(209), no kernel image is available for execution on the device.",
            "do not fit together",
        ),
        (
            RuntimeError,
            "(PreconditionNotMet) The third-party dynamic library (libcudnn.so) that Paddle needs "
            "depends on is not configured correctly. (error code is libcudnn.so: cannot open)",
            "a library of CUDA is missing",
        ),
        (
            OSError,
            "(External) CUDA error(700), an illegal memory access was encountered.",
            "look into dmesg and nvidia-smi, then start again",
        ),
    ],
)
def test_what_paddle_says_becomes_one_line(error, text, meaning):
    known = explain_device_error(error(text), "lower the batch size", "start again")
    assert meaning in str(known) and "\n" not in str(known)
    assert len(str(known)) < 600


def test_others_are_left_alone():
    for error in (RuntimeError("shapes differ"), FileNotFoundError(2, "No such file", "x.yaml")):
        assert explain_device_error(error, "", "") is None
