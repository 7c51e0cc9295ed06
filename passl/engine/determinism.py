"""The same numbers from the same run, also on a GPU: what is asked of NVIDIA's libraries for it.

On a processor every operation adds up in one order. On a GPU cuDNN and cuBLAS may choose another
way of computing with each start, and some ways add up in the order in which threads happen to end.
"""

from __future__ import annotations

import os

import paddle

from passl.utils.logging import logger

# PaddlePaddle's own switches (paddle/common/flags.cc), which only its GPU builds have.
_FLAGS = {
    "FLAGS_cudnn_deterministic": True,  # convolutions and max pooling by cuDNN's fixed algorithms
    "FLAGS_cudnn_exhaustive_search": False,  # they are not chosen by how fast they happen to be
    "FLAGS_embedding_deterministic": 1,  # gradients of tables are added up in order
}
# What the libraries read when they are first used: cuBLAS gives each product a work space of its
# own ("Results reproducibility" in its documentation); NCCL keeps to one algorithm, which adds in
# the order of the ring, and none that adds in a switch.
_VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "Ring"}


def ask_for_determinism(device: str) -> None:
    """Asks for the same results in every run; call it before anything is computed.

    A variable that the user has set is left as it is, which is said.

    Args:
        device: ``cpu`` or ``gpu``. On a processor there is nothing to ask for.
    """
    if device != "gpu":
        return
    for name, value in _VARIABLES.items():
        found = os.environ.setdefault(name, value)
        if found != value:
            logger.warning(
                "deterministic: %s is %s in the environment, and stays so; %s would make results "
                "reproducible", name, found, value,
            )  # fmt: skip
    paddle.set_flags(_FLAGS)


def say_what_stays_open(device: str) -> None:
    """Logs how far the promise goes that ``deterministic`` makes."""
    if device == "gpu":
        logger.info(
            "deterministic: cuDNN, cuBLAS and NCCL are asked for the same numbers in every run; "
            "whether that is all it takes has never been tried on a GPU"
        )
    else:
        logger.info("deterministic: on a processor runs are the same in any case")
