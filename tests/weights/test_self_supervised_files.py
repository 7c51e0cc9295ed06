"""From pre-training to what it is for, and back: which parts of a file go where."""

import json
import logging

import numpy as np
import paddle
import pytest
from helpers import run_here
from self_supervised import BACKBONES, method, views

import passl
from passl.modeling.architectures import Architecture, build_architecture
from passl.modeling.backbones import build_backbone
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights, write_tensor_file
from passl.weights.formats import torch
from passl.weights.origin import describe_origin, origin_of_weights

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
        assert "begin anew: projector (" in said() and "twin (" in said()
        assert "the momentum encoder begins as a copy of the network" in said()
    assert said().count("begin anew") == 1


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
        assert_same(arrays(other), arrays(network))  # the twin is no copy made anew


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
    assert "enough without what is for training alone: projector (4 tensors), twin (" in said()
    assert "anew" not in said()
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
    source = saved(network, tmp_path / "x.safetensors", **facts, data="photos")
    target = tmp_path / "backbone.safetensors"
    code, out, err = run_here("convert", source, target, "--part", part)
    assert code == 0, err
    words = "trained by MoCo on 100 images of photos, 3.2 epochs, kNN Top-1 47.11 % (k 20, T 0.07"
    words += ", bank 60, 13 images)"
    if part == "twin":  # which nobody has evaluated
        words = "trained by MoCo (its momentum encoder) on 100 images of photos, 3.2 epochs\n"
    assert f"names to passl names, {words}" in out
    with WeightFile(target) as file:
        told = file.metadata
        assert set(file.tensors) == {f"backbone.{name}" for name in arrays(network, "backbone.")}
    assert told["origin"] == {
        "method": "MoCo", "architecture": TINY, "data": "photos", "images": 100, "epochs": 3.2,
        "images_seen": 320, **({"evaluation": record} if part == "backbone" else {"part": "twin"}),
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


@pytest.mark.smoke
@pytest.mark.parametrize(
    "origin, words",
    [
        ("SimCLR", None),
        ({"epochs": 3}, None),
        ({"method": 3}, None),
        ({"method": "A", "epochs": "three", "images": True, "data": ["x"]}, "trained by A"),
        ({"method": "A", "evaluation": {"knn_top1": 4.0}}, "trained by A"),
        ({"method": "A", "evaluation": {"top1": 4.0}}, "trained by A"),
        ({"method": "A", "evaluation": "good"}, "trained by A"),
        ({"method": "A", "data": "ImageNet"}, "trained by A on ImageNet"),
        ({"method": "A", "images": 1281167}, "trained by A on 1,281,167 images"),
        (
            {"method": "A", "evaluation": {"top1": 76.6, "samples": 50000}},
            "trained by A, Top-1 76.60 % of 50,000 images",
        ),
        (
            {"method": "A", "begun_from": {"release": "b.c_in1k", "sha256": "0123456789abcdef"}},
            "trained by A from b.c_in1k (SHA-256 0123456789ab…)",
        ),
        ({"method": "A", "begun_from": {"release": 3, "sha256": "0"}}, "trained by A"),
        ({"method": "A", "begun_from": {"address": "x", "sha256": 0}}, "trained by A"),
        (
            {"method": "A", "begun_from": {"release": "", "address": "h\n", "sha256": "\x1b"}},
            r"trained by A from h  (SHA-256 \x1b…)",
        ),
        ({"method": "\x1b[31m\nA" + "b" * 999}, r"trained by \x1b[31m A" + "b" * 53),
    ],
    ids=lambda value: "",  # they are text with spaces and escapes
)
def test_an_origin_that_somebody_wrote(origin, words, tmp_path, said):
    """It is text of a file: what is not of its kind is passed over, and no terminal obeys it."""
    assert describe_origin(origin) == words
    file = saved(method("SimCLR"), tmp_path / "x.safetensors", origin=origin)
    load_weights(classifier(), file, new_head=True)
    code, out, err = run_here("convert", file, tmp_path / "y.safetensors", "--part", "backbone")
    assert code == 0, err
    assert (words or "passl names") in out and "\x1b" not in said() + out


@pytest.mark.parametrize("key", [None, "model", "ema"])
def test_the_evaluation_is_of_the_averaged_weights(key, tmp_path):
    network = arrays(method("SimCLR"))
    tensors = {f"{group}/{n}": a for group in ("model", "ema") for n, a in network.items()}
    record = {"step": 4, "knn_top1": 47.0, "k": 2, "temperature": 0.07, "bank": 6, "samples": 3}
    facts = {"kind": "training", "config": {"model": {"name": "SimCLR"}}, "samples": 0,
             "samples_seen": 0, "progress": {"step": 4, "evaluation": record}}  # fmt: skip
    write_tensor_file(tmp_path / "x.safetensors", tensors, facts)
    with WeightFile(tmp_path / "x.safetensors") as file:
        assert file.key == "ema" and file.averages() == []
    more = [] if key is None else ["--weights-key", key]
    target = tmp_path / "y.safetensors"
    assert run_here("convert", tmp_path / "x.safetensors", target, *more)[0] == 0
    with WeightFile(target) as file:
        assert ("evaluation" in file.metadata["origin"]) == (key != "model")
        assert file.metadata["origin"]["method"] == "SimCLR"


def test_an_evaluation_of_an_earlier_step_is_not_that_of_the_weights():
    facts = {"config": {"model": {}}, "samples": 10, "samples_seen": 25}
    for step, known in ((4, True), (5, False)):
        progress = {"step": step, "best": {"step": 4, "top1": 50.0}}
        origin = origin_of_weights({**facts, "progress": progress})
        assert ("evaluation" in origin) == known and origin["method"] == "Classifier"
        assert (origin["epochs"], origin["images_seen"], origin["images"]) == (2.5, 25, 10)
    for odd in ({"progress": 3}, {"config": []}, {"samples": "many"}, {"samples": 0}):
        found = origin_of_weights({**facts, "progress": {"step": 1}, **odd})
        assert "epochs" not in found
    assert origin_of_weights({}) == {}


@pytest.mark.parametrize("name", ["MoCo", "BYOL"])
def test_a_twin_is_no_average(name, tmp_path, said):
    """Nothing offers a momentum encoder in the network's place, whichever way it is kept."""
    network = method(name)
    tensors = {f"model/{n}": array for n, array in arrays(network).items()}
    write_tensor_file(tmp_path / "x.safetensors", tensors, {"kind": "training"})
    with WeightFile(tmp_path / "x.safetensors") as file:
        assert file.averages() == [] and file.key == "model"
    target = classifier()
    load_weights(target, tmp_path / "x.safetensors", new_head=True)
    assert "averaged weights" not in said()
    assert_same(arrays(target, "backbone."), arrays(network, "backbone."))


class Pair(Architecture):
    """Two networks and no ``backbone``, as architectures of others may have."""

    def __init__(self, seed):
        super().__init__()
        paddle.seed(seed)
        self.student, self.teacher = paddle.nn.Linear(3, 2), paddle.nn.Linear(3, 2)


class Necked(Architecture):
    """A backbone and a part of its own, which evaluation needs."""

    def __init__(self, width, seed=1):
        super().__init__()
        paddle.seed(seed)
        self.backbone = build_backbone(TINY)
        self.neck = paddle.nn.Linear(8, width)


def test_architectures_of_other_parts(tmp_path, said):
    one, other = Pair(0), Pair(1)
    report = load_weights(other, saved(one, tmp_path / "pair.safetensors"), new_head=True)
    other.after_loading(report)
    assert_same(arrays(other), arrays(one))
    assert report.kept == [] and report.left_out == []
    part = {n: array for n, array in arrays(one).items() if n.startswith("student")}
    write_tensor_file(tmp_path / "half.safetensors", part, {"kind": "weights"})
    with pytest.raises(PasslError, match=r"2 missing in the file: teacher\.weight"):
        load_weights(other, tmp_path / "half.safetensors")
    with pytest.raises(PasslError, match="holds none of the tensors of this network"):
        load_weights(Pair(0), saved(classifier(), tmp_path / "c.safetensors"))
    # Without new_head a part that evaluation needs must be there, whole.
    necked = Necked(4)
    with pytest.raises(PasslError, match=r"2 missing in the file: neck\.weight"):
        load_weights(necked, tmp_path / "c.safetensors")
    file = saved(Necked(5), tmp_path / "necked.safetensors")
    with pytest.raises(PasslError, match=r"2 of another shape: neck\.weight \(file \[8, 5\]"):
        load_weights(necked, file)
    load_weights(Necked(4), file, allow_partial=True)
    assert "loaded in part: 2 of another shape: neck.weight" in said()
    assert "anew" not in said() and "aside" not in said()
    neck = arrays(necked, "neck.")
    report = load_weights(necked, file, new_head=True)
    assert report.kept == ["neck.weight", "neck.bias"] == report.left_out
    assert_same(arrays(necked, "neck."), neck)
    assert "has none of these that fit, so they begin anew: neck (2 tensors)" in said()
    target = classifier()
    load_weights(target, file, new_head=True)
    assert "of other parts, and left aside: neck (2 tensors)" in said()


def test_a_method_keeps_the_names_of_classes_out_of_its_backbone(tmp_path):
    """Rows of a head by names of classes are still those of a classifier, projector or not."""
    source = classifier(3)
    tensors = {**arrays(source), "projector.weight": np.zeros([8, 2], np.float32)}
    write_tensor_file(
        tmp_path / "x.safetensors", tensors, {"kind": "weights", "class_names": ["a", "b", "c"]}
    )
    target = classifier(3, seed=7)
    load_weights(target, tmp_path / "x.safetensors", new_head=True, class_names=["c", "d", "a"])
    own, there = arrays(target, "head."), arrays(source, "head.")
    fresh = arrays(classifier(3, seed=7), "head.")
    np.testing.assert_array_equal(own["fc.weight"][:, [0, 2]], there["fc.weight"][:, [2, 0]])
    np.testing.assert_array_equal(own["fc.weight"][:, 1], fresh["fc.weight"][:, 1])


@pytest.mark.parametrize("part", ["backbone", "twin"])
def test_a_mean_of_two_is_one_of_that_part_which_nobody_has_evaluated(part, tmp_path):
    record = {"step": 40, "knn_top1": 47.11, "k": 20, "temperature": 0.07, "bank": 60,
              "samples": 13}  # fmt: skip
    files, networks = [], [method("MoCo", seed=1), method("MoCo", seed=2)]
    for number, network in enumerate(networks):
        for tensor in network.twin.state_dict().values():
            tensor.set_value(tensor + 1 + number)
        facts = {
            "samples": 100,
            "samples_seen": 320,
            "config": {"model": {"name": "MoCo", "architecture": TINY}},
            "progress": {"step": 40, "evaluation": record},
        }
        files.append(saved(network, tmp_path / f"{number}.safetensors", **facts, data="photos"))
    target = tmp_path / "mean.safetensors"
    code, out, err = run_here(
        "convert", files[0], target, "--part", part, "--mean", files[1], "--share", "0.25"
    )
    assert code == 0, err
    assert "trained by MoCo" in out and "47.11" not in out
    prefix = "backbone." if part == "backbone" else "twin.backbone."
    one, two = (arrays(network, prefix) for network in networks)
    with WeightFile(target) as file:
        assert "evaluation" not in file.metadata["origin"]
        found = file.read_group(file.key)
    assert set(found) == {f"backbone.{name}" for name in one}
    for name, array in one.items():
        expected = 0.75 * array.astype("f8") + 0.25 * two[name].astype("f8")
        np.testing.assert_array_equal(found[f"backbone.{name}"], expected.astype("f4"), name)


def test_a_mean_counts_as_the_first_file_does(tmp_path):
    """Whole numbers have no mean: the place in a queue is that of one of them."""
    files = []
    for number, place in enumerate((8, 16)):
        network = method("MoCo", seed=number)
        network.queue.pointer.set_value(paddle.to_tensor([place], "int64"))
        files.append(saved(network, tmp_path / f"{number}.safetensors"))
    target = tmp_path / "mean.safetensors"
    code, out, err = run_here("convert", files[0], target, "--mean", files[1])
    assert code == 0, err
    with WeightFile(target) as file:
        pointer = file.read_group(file.key)["queue.pointer"]
    assert pointer.dtype == np.int64 and pointer.tolist() == [8]


def test_heads_of_other_classes_have_no_mean(tmp_path):
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for file, names in zip(files, (["a", "b", "c"], ["a", "c", "b"], None)):
        saved(classifier(3), file, class_names=names)
    target = tmp_path / "mean.safetensors"
    code, out, err = run_here("convert", files[0], target, "--mean", files[1])
    assert code == 2 and "1.safetensors: its head is for other classes than that of" in err
    assert not target.exists()
    code, out, err = run_here("convert", files[0], target, "--mean", files[2])
    assert code == 0, err


def test_a_name_that_a_publisher_has_not(tmp_path):
    source = saved(method("SimCLR"), tmp_path / "x.safetensors")
    code, out, err = run_here("convert", source, tmp_path / "y.pth")
    assert code and "'timm' has no name for 'projector.fcs.0.weight'; --part backbone" in err
    code, out, err = run_here("convert", source, tmp_path / "y.pth", "--part", "backbone")
    assert code == 0, err
    state = torch_names(tmp_path / "y.pth")
    assert {"conv1.weight", "layer1.0.conv1.weight", "bn1.running_var"} <= state
    assert not any(name.startswith(("projector", "fc")) for name in state)


def torch_names(path):
    with WeightFile(path) as file:
        return set(file.tensors)


def test_a_released_file_gives_its_backbone(tmp_path):
    """Names of somebody else, and nothing recorded: nothing is made up."""
    simclr = method("SimCLR")
    write_tensor_file(tmp_path / "x.safetensors", {}, {})
    target = tmp_path / "backbone.pth"
    assert run_here("convert", saved(simclr, tmp_path / "x.safetensors"), target,
                    "--part", "backbone")[0] == 0  # fmt: skip
    code, out, err = run_here("convert", target, tmp_path / "y.safetensors", "--part", "backbone")
    assert code == 0 and "trained by" not in out, err
    with WeightFile(tmp_path / "y.safetensors") as file:
        assert "origin" not in file.metadata and file.metadata["part"] == "backbone"
    code, out, err = run_here("convert", target, tmp_path / "z.safetensors", "--part", "twin")
    assert code and "no backbone in a part called 'twin'; its parts: backbone" in err


def test_names_of_others_keep_the_origin(tmp_path):
    """In timm's names, and trained on ImageNet, it is still no release of timm's."""
    network = method("SimCLR")
    file = saved(network, tmp_path / "x.safetensors", data="ImageNet", origin={"method": "SimCLR"})
    target = tmp_path / "y.safetensors"
    code, out, err = run_here("convert", file, target, "--part", "backbone", "--to", "timm")
    assert code == 0, err
    other = classifier()
    report = load_weights(other, target, new_head=True)
    assert report.metadata["origin"] == {"method": "SimCLR"}
    assert report.metadata["data"] == "ImageNet"
    assert_same(arrays(other, "backbone."), arrays(network, "backbone."))


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


def test_a_file_without_a_backbone_leaves_nothing_aside(tmp_path):
    """What is unknown in it is listed: there is no network in it whose other parts these are."""
    tensors = {"neck.weight": np.ones([8, 4], np.float32), "junk.x": np.ones(2, np.float32)}
    write_tensor_file(tmp_path / "x.safetensors", tensors, {"kind": "weights"})
    with pytest.raises(PasslError, match=r"1 unexpected: junk\.x"):
        load_weights(Necked(4), tmp_path / "x.safetensors")
    tensors = {**arrays(Pair(0)), "backbone.x": np.ones(2, np.float32)}
    write_tensor_file(tmp_path / "y.safetensors", tensors, {"kind": "weights"})
    with pytest.raises(PasslError, match=r"1 unexpected: backbone\.x"):
        load_weights(Pair(1), tmp_path / "y.safetensors")
