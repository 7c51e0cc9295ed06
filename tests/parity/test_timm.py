"""timm's Mixers with random parameters, saved by torch, loaded here: what they answer."""

import gc
import math

import numpy as np
import pytest
from comparing import answers, check_answers

import passl

SUFFIXES = ("safetensors", "pth", "legacy.pth", "bin")


# Seen with torch 2.13.0, timm 1.0.31 and Paddle 3.3.1: logits within 7.4e-7, blocks within
# 1.8e-6 (both at B/32).
@pytest.mark.reference
@pytest.mark.parametrize("size", ["s32", "s16", "b32", "b16", "l32", "l16"])
def test_the_network_answers_as_timms_does(reference, photographs, tmp_path, size):
    suffixes = SUFFIXES if size == "s32" else SUFFIXES[:1]
    reference(
        "timm_mixer.py", f"mixer_{size}_224", tmp_path,
        "--photographs", photographs[10], photographs[15], "--suffixes", *suffixes,
    )  # fmt: skip
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    pixels, parameters = theirs.pop("pixels"), theirs.pop("parameters")
    assert pixels.shape == (2, 3, 224, 224) and theirs["logits"].shape == (2, 1000)
    for suffix in suffixes:
        file = tmp_path / f"weights.{suffix}"
        network = passl.create_model(f"mlp_mixer_{size}_224", pretrained=file)
        file.unlink()  # up to 833 MB
        assert sum(math.prod(p.shape) for p in network.parameters()) == parameters
        check_answers(answers(network, pixels), theirs, f"{size} {suffix}")
        del network
        gc.collect()
