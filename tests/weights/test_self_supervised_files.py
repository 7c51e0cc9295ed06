"""From pre-training to what it is for, and back: which parts of a file go where."""

import json
import logging

import numpy as np
import paddle
import pytest
from helpers import run_here
from self_supervised import BACKBONES, method, views

import passl
from passl.modeling.architectures import build_architecture
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights, write_tensor_file
from passl.weights.formats import torch

TINY = {"name": "ResNet", **BACKBONES["ResNet"]}


def arrays(network, prefix=""):
    return {
        name[len(prefix) :]: tensor.numpy()
        for name, tensor in network.state_dict().items()
        if name.startswith(prefix)
    }


def assert_same(one, other):
    assert one.keys() == other.keys() and one
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def saved(network, path, **facts):
    write_tensor_file(path, arrays(network), {"kind": "weights", **facts})
    return path


def classifier(classes=5, seed=1):
    paddle.seed(seed)
    network = build_architecture(
        {"architecture": TINY, "head": {"name": "ClassificationHead", "num_classes": classes}}
    )
    for parameter in network.head.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    return network


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO)
    return lambda: caplog.text


@pytest.mark.parametrize("name", ["SimCLR", "MoCo", "BYOL"])
def test_a_classifier_takes_the_backbone(name, tmp_path, said):
    network = method(name, probe={"num_classes": 7})
    for tensor in network.twin.state_dict().values() if name != "SimCLR" else ():
        tensor.set_value(tensor + 1)  # which is to be left alone
    file = saved(network, tmp_path / "x.safetensors")
    target = classifier()
    head = arrays(target, "head.")
    report = load_weights(target, file, new_head=True)
    assert_same(arrays(target, "backbone."), arrays(network, "backbone."))
    assert_same(arrays(target, "head."), head)
    assert not report.has_head and sorted(report.kept) == ["head.fc.bias", "head.fc.weight"]
    assert "left aside: projector (" in said() and "probe (2 tensors)" in said()
    assert "so the head begins anew" in said()
    with pytest.raises(PasslError, match="missing in the file: head.fc.weight"):
        load_weights(classifier(), file)
    for alone in (passl.create_model(**TINY, num_classes=0), target.backbone):
        load_weights(alone, file)
        prefix = "backbone." if hasattr(alone, "backbone") else ""
        assert_same(arrays(alone, prefix), arrays(network, "backbone."))


@pytest.mark.parametrize("name", ["SimCLR", "MoCo", "BYOL"])
def test_a_method_takes_a_classifier(name, tmp_path, said):
    file = saved(classifier(), tmp_path / "x.safetensors")
    network = method(name)
    before = arrays(network)
    report = load_weights(network, file, new_head=True)
    network.after_loading(report)
    assert_same(arrays(network, "backbone."), arrays(classifier(), "backbone."))
    assert_same(arrays(network, "projector."), {
        key[len("projector.") :]: array for key, array in before.items() if "projector" in key[:9]
    })  # fmt: skip
    if name != "SimCLR":
        for part in ("backbone.", "projector."):
            assert_same(arrays(network, f"twin.{part}"), arrays(network, part))
        assert "begin anew: " in said() and "twin (" in said()


def test_a_method_takes_its_own_file_whole(tmp_path):
    network = method("MoCo")
    network.queue.pointer.set_value(paddle.to_tensor([3]))
    network.twin.backbone.stem.conv.weight.set_value(paddle.ones([4, 3, 3, 3]))
    file = saved(network, tmp_path / "x.safetensors")
    for new_head in (False, True):
        other = method("MoCo", seed=5)
        report = load_weights(other, file, new_head=new_head)
        other.after_loading(report)
        assert report.kept == [] and report.left_out == []
        assert_same(arrays(other), arrays(network))


def test_from_one_method_to_another(tmp_path):
    """What fits is taken: the backbone, and a projector of the same shape."""
    simclr = method("SimCLR", projector={"hidden": 12, "out": 6, "out_norm": None})
    file = saved(simclr, tmp_path / "x.safetensors")
    other = method("BYOL", seed=5, projector={"hidden": 12, "out": 6, "bias": False})
    other.after_loading(load_weights(other, file, new_head=True))
    for part in ("backbone.", "projector."):
        assert_same(arrays(other, part), arrays(simclr, part))
        assert_same(arrays(other, f"twin.{part}"), arrays(simclr, part))
    wider = method("BYOL", seed=5)
    projector = arrays(wider, "projector.")
    load_weights(wider, file, new_head=True)
    assert_same(arrays(wider, "projector."), projector)
    assert_same(arrays(wider, "backbone."), arrays(simclr, "backbone."))


def test_a_backbone_is_enough_to_evaluate(tmp_path, said):
    network = method("MoCo")
    backbone = {f"backbone.{name}": array for name, array in arrays(network, "backbone.").items()}
    write_tensor_file(tmp_path / "x.safetensors", backbone, {"kind": "weights"})
    other = method("MoCo", seed=5)
    load_weights(other, tmp_path / "x.safetensors")
    assert_same(arrays(other, "backbone."), arrays(network, "backbone."))
    assert "begin anew: projector (" in said()
    whole = arrays(network)
    del whole["twin.backbone.stem.conv.weight"]
    write_tensor_file(tmp_path / "y.safetensors", whole, {"kind": "weights"})
    with pytest.raises(PasslError, match="missing in the file: twin.backbone.stem.conv.weight"):
        load_weights(other, tmp_path / "y.safetensors")


def test_mocos_own_file(tmp_path):
    """As their code writes it, both versions: network, twin, queue ``[128, K]``, pointer."""
    for layers in (1, 2):
        network = method("MoCo", projector={"hidden": 12, "out": 6, "layers": layers}, K=32)
        paddle.seed(3)
        for tensor in network.state_dict().values():
            if tensor.dtype == paddle.float32:
                tensor.set_value(paddle.rand(tensor.shape) + 0.5)
        network.queue.pointer.set_value(paddle.to_tensor([16]))
        state, there = {}, {"projector.fcs.0": "fc" if layers == 1 else "fc.0",
                            "projector.fcs.1": "fc.2"}  # fmt: skip
        for encoder, prefix in (("encoder_q", ""), ("encoder_k", "twin.")):
            for name, array in arrays(network, prefix).items():
                if not name.startswith(("backbone.", "projector.")):
                    continue
                layer, _, leaf = name.rpartition(".")
                if layer in there:
                    state[f"module.{encoder}.{there[layer]}.{leaf}"] = array.T
                    continue
                layer = layer.replace("backbone.", "")
                layer = layer.replace("stem.conv", "conv1").replace("stem.norm", "bn1")
                for i in range(2):
                    layer = layer.replace(f"stages.{i}.", f"layer{i + 1}.")
                for k in range(2):
                    layer = layer.replace(f"layers.{k}.conv", f"conv{k + 1}")
                    layer = layer.replace(f"layers.{k}.norm", f"bn{k + 1}")
                layer = layer.replace("shortcut.conv", "downsample.0")
                layer = layer.replace("shortcut.norm", "downsample.1")
                leaf = {"_mean": "running_mean", "_variance": "running_var"}.get(leaf, leaf)
                state[f"module.{encoder}.{layer}.{leaf}"] = array
        state["module.queue"] = network.queue.keys.numpy().T
        state["module.queue_ptr"] = np.array([16])
        torch.write(tmp_path / "x.pth", state)
        changes = {"projector": {"hidden": 12, "out": 6, "layers": layers}}
        other = method("MoCo", seed=9, **changes)
        report = load_weights(other, tmp_path / "x.pth")
        assert report.kept == [] and report.publisher == ("moco_v1" if layers == 1 else "moco")
        assert_same(arrays(other), arrays(network))
        target = classifier()
        load_weights(target, tmp_path / "x.pth", new_head=True)
        assert_same(arrays(target, "backbone."), arrays(network, "backbone."))


@pytest.mark.parametrize("part", ["backbone", "twin"])
def test_convert_writes_a_backbone(part, tmp_path):
    network = method("MoCo")
    for tensor in network.twin.state_dict().values():
        tensor.set_value(tensor + 1)
    record = {"step": 40, "knn_top1": 47.11, "k": 20, "temperature": 0.07, "bank": 60,
              "samples": 13}  # fmt: skip
    facts = {
        "samples": 100,
        "samples_seen": 320,
        "config": {"model": {"name": "MoCo", "architecture": TINY}},
        "progress": {"step": 40, "evaluation": record},
        "class_names": ["a", "b"],
    }
    source = saved(network, tmp_path / "x.safetensors", **facts)
    target = tmp_path / "backbone.safetensors"
    code, out, err = run_here("convert", source, target, "--part", part)
    assert code == 0, err
    with WeightFile(target) as file:
        told = file.metadata
        assert set(file.tensors) == {f"backbone.{name}" for name in arrays(network, "backbone.")}
    assert told["origin"] == {
        "method": "MoCo", "architecture": TINY, "epochs": 3.2, "images_seen": 320,
        "evaluation": record,
    }  # fmt: skip
    assert told["part"] == part and told["class_names"] is None
    other = classifier()
    load_weights(other, target, new_head=True)
    prefix = "backbone." if part == "backbone" else "twin.backbone."
    assert_same(arrays(other, "backbone."), arrays(network, prefix))
    code, out, err = run_here("convert", target, tmp_path / "t.pth", "--to", "timm")
    assert code == 0, err
    with WeightFile(tmp_path / "t.pth") as file:
        found = file.read_group(file.key)
    np.testing.assert_array_equal(
        found["conv1.weight"], arrays(network, prefix)["stem.conv.weight"]
    )
    # Its origin is handed on.
    code, out, err = run_here("convert", target, tmp_path / "u.safetensors", "--part", "backbone")
    with WeightFile(tmp_path / "u.safetensors") as file:
        assert json.dumps(file.metadata["origin"]) == json.dumps(told["origin"])


def test_its_origin_is_told(tmp_path, said):
    network = method("SimCLR")
    record = {"knn_top1": 47.111, "k": 20, "temperature": 0.07, "bank": 5000, "samples": 1000}
    origin = {"method": "SimCLR", "epochs": 3.2, "evaluation": record}
    file = saved(network, tmp_path / "x.safetensors", origin=origin)
    load_weights(classifier(), file, new_head=True)
    assert (
        "trained by SimCLR, 3.2 epochs, kNN Top-1 47.11 % (k 20, T 0.07, bank 5,000, 1,000 images)"
        in said()
    )


def test_a_part_that_is_not_there(tmp_path):
    source = saved(method("SimCLR"), tmp_path / "x.safetensors")
    code, out, err = run_here("convert", source, tmp_path / "y.safetensors", "--part", "twin")
    assert code and "no backbone in a part called 'twin'; its parts: backbone, projector" in err
    assert not (tmp_path / "y.safetensors").exists()


def test_a_whole_file_is_converted_as_it_is(tmp_path):
    network = method("BYOL")
    source = saved(network, tmp_path / "x.safetensors")
    code, out, err = run_here("convert", source, tmp_path / "y.safetensors")
    assert code == 0, err
    other = method("BYOL", seed=4)
    load_weights(other, tmp_path / "y.safetensors")
    assert_same(arrays(other), arrays(network))
    other.eval()
    assert other(views(2))["features"].shape == [2, 8]
