"""From every format to every other and back: the same bits."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import paddle
import publishers
import pytest
import safetensors.numpy
from helpers import ROOT
from publishers import own

from passl.cli import convert as convert_command
from passl.modeling.backbones.mlp_mixer import MlpMixer
from passl.utils.errors import PasslError
from passl.weights import WeightFile
from passl.weights.converting import convert_weights
from passl.weights.formats import safetensors as safetensors_format
from passl.weights.formats import torch

FAMILIES = {"MlpMixer": MlpMixer.released_names}

# publisher, suffix, and what the file must hold, written out by hand
FORMS = {
    "google.npz": publishers.google,
    "timm.safetensors": publishers.timm,
    "timm.pth": publishers.timm,
    "timm.pt": publishers.timm,
    "timm.bin": publishers.timm,
    "mmpretrain.pth": publishers.mmpretrain,
    "mmpretrain.safetensors": publishers.mmpretrain,
    "passl_v1.pdparams": publishers.passl_v1,
    "passl_v1.safetensors": publishers.passl_v1,
    "timm.pdparams": publishers.timm_in_paddle,
    "paddlevit.pdparams": publishers.paddlevit,
    "ppim.pdparams": publishers.ppim,
    "passl.safetensors": dict,
    "passl.pdparams": dict,
}


def convert(source, target):
    return convert_weights(source, target, FAMILIES, target.name.partition(".")[0])


def contents(path):
    with WeightFile(path) as file:
        return file.read_group(file.key)


def assert_same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(
            array.view(f"u{array.itemsize}"), other[name].view(f"u{array.itemsize}"), err_msg=name
        )


def exact(dtype=np.float32):
    """Every bit pattern counts, not-a-number and both zeros among them."""
    arrays = {name: array.astype(dtype) for name, array in own().items()}
    arrays["head.fc.bias"][:4] = [np.nan, -0.0, np.inf, np.finfo(np.float32).tiny]
    return arrays


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.npz"
    np.savez(path, **publishers.google(exact()))
    return path


@pytest.mark.smoke
@pytest.mark.parametrize("form", FORMS)
def test_each_form_holds_what_its_publisher_writes_and_comes_back_the_same(form, source, tmp_path):
    target = tmp_path / "converted" / form
    convert(source, target)
    expected = {n: np.ascontiguousarray(a) for n, a in FORMS[form](exact()).items()}
    assert_same(contents(target), expected)
    back = tmp_path / "google.npz"
    convert(target, back)
    with np.load(back) as file:
        assert_same(dict(file), dict(np.load(source)))


@pytest.mark.parametrize("second", FORMS)
def test_from_each_form_to_each_other(second, source, tmp_path):
    for first in FORMS:
        one, other = tmp_path / first, tmp_path / "other" / second
        convert(source, one)
        convert(one, other)
        expected = {n: np.ascontiguousarray(a) for n, a in FORMS[second](exact()).items()}
        assert_same(contents(other), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("form", ["timm.safetensors", "timm.pth", "passl_v1.pdparams"])
def test_number_types_stay(form, dtype, tmp_path):
    arrays = exact(dtype)
    first = tmp_path / "own.pth"
    torch.write(str(first), publishers.timm(arrays))
    second, third = tmp_path / form, tmp_path / "passl.safetensors"
    convert(first, second)
    convert(second, third)
    assert_same(contents(third), arrays)


def test_the_same_tensors_give_the_same_file(source, tmp_path):
    for form in ("timm.pth", "timm.safetensors", "passl_v1.pdparams"):
        convert(source, tmp_path / "one" / form)
        convert(source, tmp_path / "two" / form)
        assert (tmp_path / "one" / form).read_bytes() == (tmp_path / "two" / form).read_bytes()


@pytest.mark.smoke
def test_others_can_read_what_is_written(source, tmp_path):
    """Paddle, NumPy and the safetensors library, each with its own reader."""
    convert(source, tmp_path / "passl_v1.pdparams")
    loaded = paddle.load(str(tmp_path / "passl_v1.pdparams"))
    assert_same({n: t.numpy() for n, t in loaded.items()}, publishers.passl_v1(exact()))
    convert(source, tmp_path / "timm.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "timm.safetensors")
    assert_same(arrays, {n: np.ascontiguousarray(a) for n, a in publishers.timm(exact()).items()})
    with safetensors.safe_open(tmp_path / "timm.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_bfloat16_as_the_safetensors_library_sees_it(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    safetensors_format.write(str(tmp_path / "x"), {"a": array})
    ((name, entry),) = safetensors.deserialize((tmp_path / "x").read_bytes())
    assert (name, entry["dtype"], entry["shape"]) == ("a", "BF16", [2, 3])
    assert bytes(entry["data"]) == array.tobytes()


def test_what_stands_beside_the_network_is_left_aside(tmp_path, capsys):
    path = tmp_path / "run.pdparams"
    paddle.save(
        {"state_dict": publishers.passl_v1(own()), "optimizer": {"m": np.ones(3, "f4")}}, str(path)
    )
    assert convert_command.main([str(path), str(tmp_path / "x.npz")]) == 0
    out = capsys.readouterr().out
    assert "30 tensors, passl_v1 names to google names; left aside: 'optimizer'" in out
    with np.load(tmp_path / "x.npz") as file:
        assert_same(dict(file), {n: np.ascontiguousarray(a)
                                 for n, a in publishers.google(own()).items()})  # fmt: skip


def test_class_names_stay_in_our_own_format(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "passl.safetensors"
    metadata = {"kind": "weights", "class_names": ["kiwi", "pear"]}
    safetensors_format.write_tensor_file(first, own(), metadata)
    convert(first, second)
    with WeightFile(second) as file:
        assert file.metadata == metadata


@pytest.mark.smoke
def test_what_cannot_be_converted(source, tmp_path, capsys):
    def error(*arguments):
        before = sorted(tmp_path.rglob("*"))
        assert convert_command.main([str(argument) for argument in arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"
        return err

    assert "'.h5' is no format that is written" in error(source, tmp_path / "x.h5")
    assert "into .npz files" in error(source, tmp_path / "x.pth", "--to", "google")
    assert "into .bin, .pdparams" in error(source, tmp_path / "x.npz", "--to", "timm")
    assert "did you mean 'timm'" in error(source, tmp_path / "x.pth", "--to", "tim")
    assert "there is no such file" in error(tmp_path / "nothing", tmp_path / "x.pth")
    other = tmp_path / "other.npz"
    np.savez(other, a=np.ones(3))
    assert "its names belong to" in error(other, tmp_path / "x.pth")
    stray = tmp_path / "stray.npz"
    np.savez(stray, extra=np.ones(3), **publishers.google(own()))
    assert "1 tensors are none of this network's: extra" in error(stray, tmp_path / "x.pth")
    whole = source.read_bytes()
    source.write_bytes(whole[:-5000])
    assert "is damaged" in error(source, tmp_path / "x.pth")


def test_a_failed_conversion_leaves_what_was_there(source, tmp_path, monkeypatch):
    target = tmp_path / "timm.pth"
    target.write_bytes(b"what was there")

    def full(path, tensors):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(
        __import__("passl.weights.converting", fromlist=["x"])._FORMATS,
        ".pth", (full, "timm", "torch"),
    )  # fmt: skip
    with pytest.raises(PasslError, match="No space left on device"):
        convert(source, target)
    assert target.read_bytes() == b"what was there"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.npz", "timm.pth"]


def test_the_command_as_a_process(source, tmp_path):
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "convert.py", source, "mine.safetensors"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "mine.safetensors: 30 tensors, google names to passl names\n"
    labels = json.loads(
        safetensors.safe_open(tmp_path / "mine.safetensors", "numpy").metadata()["passl"]
    )
    assert labels["kind"] == "weights"
    assert os.stat(tmp_path / "mine.safetensors").st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask
