"""Files that torch itself wrote, in both of its formats: see ``files/make_torch_files.py``."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from passl.weights import WeightFile

FILES = Path(__file__).parent / "files"
FORMATS = ("", "_legacy")


def numbers(*shape):
    return (np.arange(np.prod(shape, dtype=int), dtype="f4") / 4 - 1).reshape(shape)


@pytest.mark.smoke
@pytest.mark.parametrize("form", FORMATS)
def test_tensors_of_every_kind(form):
    whole = numbers(4, 6)
    expected = {
        "half": numbers(2, 3).astype("f2"),
        "bfloat16": numbers(2, 3).astype(ml_dtypes.bfloat16),
        "double": numbers(2, 3).astype("f8"),
        "long": np.arange(4),
        "bool": np.array([True, False, True]),
        "transposed": numbers(2, 3).T,
        "whole": whole,
        "view": whole[1:3, ::2],
        "row": whole[2],
        "scalar": np.array(2.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
        "parameter": numbers(3),
    }
    with WeightFile(FILES / f"kinds{form}.pth") as file:
        assert (file.format, file.convention, file.key) == ("torch", "torch", "")
        assert set(file.tensors) == set(expected) and not file.refused_under(file.key)
        for name in reversed(list(expected)):  # in any order
            read = file.read(name)
            assert file.tensors[name].shape == read.shape == expected[name].shape
            assert file.tensors[name].dtype == read.dtype == expected[name].dtype
            np.testing.assert_array_equal(read, expected[name])


@pytest.mark.parametrize("form", FORMATS)
def test_a_state_dict(form):
    with WeightFile(FILES / f"state_dict{form}.pth") as file:
        assert len(file.tensors) == 30 and set(file.groups) == {""}
        for name, array in file.tensors.items():
            np.testing.assert_array_equal(file.read(name), numbers(*array.shape))


@pytest.mark.parametrize("form", FORMATS)
def test_a_training_checkpoint(form):
    """The optimizer's state stands beside the network's; the author's arguments stay unread."""
    with WeightFile(FILES / f"training{form}.pth") as file:
        assert file.key == "state_dict"
        assert sorted(file.tensors) == ["module.bias", "module.weight"]
        assert set(file.groups) == {"state_dict", "optimizer.state.0", "optimizer.state.1"}
        # One step of AdamW: decay by 1 % of the learning rate 0.5, then a step of that rate.
        stepped = numbers(3, 4) * (1 - 0.01 * 0.5) - 0.5
        np.testing.assert_allclose(file.read("module.weight"), stepped, atol=1e-6)
        moments = file.read_group("optimizer.state.0")
        assert sorted(moments) == ["exp_avg", "exp_avg_sq", "step"]
        np.testing.assert_allclose(moments["exp_avg"], np.full((3, 4), 0.1))
        assert moments["step"].shape == () and moments["step"] == 1


@pytest.mark.smoke
def test_a_program_of_torch_script():
    """The tensors of its modules, as they are stored; nothing of the program is looked at."""
    whole = numbers(4, 6)
    expected = {
        "inner.0.weight": numbers(3, 2, 1, 1),
        "inner.0.bias": numbers(3),
        **{f"inner.1.{n}": numbers(3) for n in ("weight", "bias", "running_mean", "running_var")},
        "inner.1.num_batches_tracked": np.array(-1),
        "inner.2.weight": numbers(3, 3).astype("f2"),
        "inner.2.bias": numbers(3).astype("f2"),
        "view": whole[1:3, ::2],
        "turned": numbers(2, 3).T,
        "resolution": np.array(224),
        "logit_scale": np.array(2.5, "f4"),
        "mask": numbers(2, 2),
    }
    with WeightFile(FILES / "scripted.pt") as file:
        assert (file.format, file.convention, file.key) == ("torch", "torch", "")
        assert set(file.tensors) == set(expected) and not file.refused_under("")
        for name, array in expected.items():
            read = file.read(name)
            assert file.tensors[name].shape == read.shape == array.shape, name
            assert file.tensors[name].dtype == read.dtype == array.dtype, name
            np.testing.assert_array_equal(read, array, err_msg=name)
