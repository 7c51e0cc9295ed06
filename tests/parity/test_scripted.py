"""TorchScript programs as torch writes them: the arrays are those of torch's own state_dict."""

import numpy as np
import pytest

from passl.weights import WeightFile


# Seen with torch 2.13.0 and open_clip 3.3.0: 63 arrays of the ViT and 172 of the ResNet, all equal.
@pytest.mark.reference
@pytest.mark.parametrize("network", ["vit", "resnet"])
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_program_holds_the_arrays_of_its_state_dict(reference, tmp_path, network, how):
    reference("scripted.py", network, how, tmp_path)
    with np.load(tmp_path / "arrays.npz") as arrays:
        theirs = dict(arrays)
    assert how == "trace" or any(array.dtype == np.float16 for array in theirs.values())
    with WeightFile(tmp_path / "weights.pt") as file:
        print(network, how, len(theirs))
        # Tracing keeps no tensor that is not used; torch's state_dict has no plain attributes.
        assert theirs.keys() <= set(file.tensors)
        assert all("mask" in name for name in set(file.tensors) - theirs.keys())
        for name, array in theirs.items():
            read = file.read(name)
            assert (read.shape, read.dtype) == (array.shape, array.dtype), name
            np.testing.assert_array_equal(read, array, err_msg=name)
