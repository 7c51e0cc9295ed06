"""No wrong answer without a word: numbers that are none, names of classes, runs without val."""

import argparse
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import small_config

from passl.building import create_model
from passl.cli import convert as convert_command
from passl.cli import eval as eval_command
from passl.cli import export as export_command
from passl.cli import features as features_command
from passl.cli import predict as predict_command
from passl.cli.common import names_of_classes
from passl.datasets.sources.class_names import read_class_names, readable_names
from passl.datasets.view import evaluated_section, evaluation_view
from passl.deployment import export as export_module
from passl.engine.checkpoint import Checkpoint
from passl.modeling.architectures import build_architecture
from passl.modeling.architectures.classifier import Network
from passl.utils import stored_array, system_errors
from passl.utils.config import Config, get_config
from passl.utils.errors import PasslError
from passl.weights import LoadReport, WeightFile, load_weights, reading, write_tensor_file

SMALL = {"img_size": 16, "patch_size": 8, "num_blocks": 1}


@pytest.fixture
def image(photos):
    return str(next((photos / "val" / "pear").glob("*.jpg")))


@pytest.fixture
def changed(trained, tmp_path):
    """Writes the trained network's file anew, its tensors and record changed by a function."""

    def write(change, name="changed.safetensors"):
        with WeightFile(trained[1]) as file:
            tensors = {f"model/{key}": array for key, array in file.read_group("model").items()}
            metadata = dict(file.metadata)
        change(tensors, metadata)
        path = tmp_path / name
        write_tensor_file(path, tensors, metadata)
        return str(path)

    return write


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def all_commands(config, weights, image, out):
    """Yields what each command is, and its exit code."""
    given = ["-c", str(config), "--weights", weights]
    yield "eval", eval_command.main([*given, "--json", str(out / "x.json")])
    yield "report", eval_command.main([*given, "--report", str(out / "report")])
    yield "predict", predict_command.main([*given, image, "--output", str(out / "answers")])
    yield "export", export_command.main([*given, "--output", str(out / "e")])


@pytest.mark.smoke
def test_weights_and_logits_that_are_not_finite(trained, changed, image, tmp_path, capsys):
    def no_number(tensors, metadata):
        array = tensors["model/head.fc.weight"].copy()
        array[0, :2] = np.nan, np.inf
        tensors["model/head.fc.weight"] = array

    def too_large(tensors, metadata):  # finite, but the logits are not
        tensors["model/head.fc.weight"] = np.full_like(tensors["model/head.fc.weight"], 3e38)

    weights = changed(no_number)
    for _, code in all_commands(trained[0], weights, image, tmp_path):
        line = last_line(capsys)
        assert code == 2 and weights in line and "2 of the 192 numbers of 'head.fc.weight'" in line
    assert {path.name for path in tmp_path.iterdir()} <= {"changed.safetensors"}

    def too_large_inside(tensors, metadata):
        tensors["model/backbone.norm.weight"] = np.full([64], 3e38, np.float32)

    given = ["-c", str(trained[0]), "--weights", changed(too_large_inside), image]
    assert features_command.main([*given, "--output", str(tmp_path / "features")]) == 2
    assert f"{image}: the features of the network are not finite" in last_line(capsys)
    weights = changed(too_large)
    words = {
        "eval": "the logits of 13 of 13 images are not finite",
        "report": "the logits of 13 of 13 images are not finite",
        "predict": f"{image}: the logits of the network are not finite",
        "export": "the network itself gives numbers that are not finite",
    }
    for command, code in all_commands(trained[0], weights, image, tmp_path):
        assert code == 2 and words[command] in last_line(capsys), command
    assert {path.name for path in tmp_path.iterdir()} <= {"changed.safetensors"}


def test_what_paddle_could_not_write_whole(trained, tmp_path, monkeypatch):
    """It does not look: what reads the file again says nothing of a disk."""
    sizes = {**SMALL, "embed_dim": 4, "tokens_mlp_dim": 4, "channels_mlp_dim": 4}
    network = Network({"name": "MlpMixer", **sizes})
    section, save = get_config(trained[0]).dataloader.val, paddle.jit.save

    def cut(suffixes, full):
        def save_a_part(static, path):
            save(static, path)
            for file in Path(path).parent.iterdir():
                if file.suffix in suffixes:
                    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

        monkeypatch.setattr(paddle.jit, "save", save_a_part)
        for module in (export_module, system_errors):
            monkeypatch.setattr(module, "is_full", lambda place: full)
        with pytest.raises(PasslError) as error:
            export_module.export(network, tmp_path / "out", section, (16, 16), {}, ["paddle"])
        assert list((tmp_path / "out").iterdir()) == []
        return str(error.value)

    line = cut([".json", ".pdmodel"], full=True)
    assert f"{tmp_path / 'out'}: cannot be written (No space left" in line and "is full" in line
    assert "has not written the weights whole" in cut([".pdiparams"], full=False)


@pytest.mark.parametrize("kept", [["best", "latest"], ["latest"], []])
def test_a_run_without_validation_has_its_latest(kept, trained, photos, image, tmp_path, capsys):
    """The best checkpoint first; another folder than the config's only where it is asked for."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    config = small_config(photos, output_dir=str(tmp_path / "elsewhere"))
    del config["dataloader"]["val"], config["dataloader"]["test"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in kept:
        shutil.copy(trained[1], folder / "checkpoints" / f"{name}.safetensors")
    given = ["-c", str(folder / "config.yaml"), image, "--topk", "1"]
    code, err = predict_command.main(given), capsys.readouterr().err
    assert "no dataloader.val: images are looked at through ResizeCenterCrop" in err
    if not kept:
        assert code == 2 and "there is no such file, nor latest.safetensors beside it" in err
        assert predict_command.main([*given, "--weights", str(folder)]) == 2
        assert "is a folder without best.safetensors" in last_line(capsys)
        return
    assert code == 0 and f"{kept[0]}.safetensors" in err
    assert ("the latest is taken" in err) == (kept == ["latest"])
    assert predict_command.main([*given, "--output-dir", str(tmp_path / "elsewhere")]) == 2
    assert "elsewhere" in last_line(capsys)
    for place in (folder, folder / "checkpoints"):
        assert predict_command.main([*given, "--weights", str(place)]) == 0
        assert f"{kept[0]}.safetensors" in capsys.readouterr().err
    if kept == ["latest"]:
        assert eval_command.main(given[:2]) == 2
        line = last_line(capsys)
        assert "it has: train" in line and "--split" in line


def sections(photos, **train):
    values = small_config(photos)["dataloader"]["train"]
    values["dataset"].update(train)
    return Config(
        {"preprocessing": None, "dataloader": {"train": values, "val": None, "test": None}}
    )


def test_the_evaluation_view_of_a_config_without_one(photos):
    section = evaluation_view(sections(photos))
    assert section.dataset.transforms == [
        {"name": "ResizeCenterCrop", "size": [16, 16], "crop_ratio": 0.875}
    ]
    assert [part.name for part in section.batch_transforms] == ["Normalize"]  # no Mixup
    assert section.sampler.batch_size == 8
    released = Config({**sections(photos), "preprocessing": "mlp_mixer_b16_224.goog_in1k"})
    (crop,) = evaluation_view(released).dataset.transforms
    assert crop["size"] == 224 and crop["interpolation"] == "bicubic"
    with pytest.raises(PasslError, match="gives the images a size; .*-o 'dataloader.val={dataset"):
        evaluation_view(sections(photos, transforms=[{"name": "RandomHorizontalFlip"}]))
    with pytest.raises(PasslError, match="no dataloader.train section"):
        evaluation_view(Config({"dataloader": {"train": None, "val": None, "test": None}}))


def test_training_images_are_evaluated_as_others_are(trained):
    cfg = get_config(trained[0])
    section = evaluated_section(cfg, "train")
    assert section.dataset.dataroot == cfg.dataloader.train.dataset.dataroot
    assert section.dataset.transforms == cfg.dataloader.val.dataset.transforms
    assert section.batch_transforms == cfg.dataloader.val.batch_transforms
    assert evaluated_section(cfg, "test") is cfg.dataloader.test


def report(metadata=None, publisher="passl", kept=()):
    return LoadReport("x", "safetensors", publisher, [], list(kept), [], metadata or {})


def run_on(dataset, names=None):
    config = {"dataloader": {"train": {"dataset": {"name": dataset}}}}
    return {"kind": "training", "config": config, "class_names": names}


IMAGENET = readable_names(1000, None, imagenet=True)
NUMBERS = [f"class {label}" for label in range(1000)]
OWN = [f"own {label}" for label in range(1000)]


@pytest.mark.parametrize(
    "loaded, expected",
    [
        (report(run_on("ImageNet")), IMAGENET),
        (report(run_on("ImageList")), NUMBERS),
        (report(run_on("ImageList", OWN)), OWN),
        (report(publisher="google"), IMAGENET),
        (report(publisher="timm"), IMAGENET),
        (report(publisher="timm", kept=["head.fc.weight"]), NUMBERS),  # of another network
        (report(run_on("ImageList", OWN), kept=["head.fc.weight"]), NUMBERS),
        (report(), NUMBERS),
        (report({"kind": "weights", "class_names": None}), NUMBERS),
        (report({"kind": "weights", "data": "ImageNet"}), IMAGENET),
        (report({"kind": "weights", "config": "no mapping"}), NUMBERS),
    ],
)
def test_imagenets_names_are_for_imagenets_classes(loaded, expected):
    arguments = argparse.Namespace(class_names=None)
    section = Config({"dataset": {"name": "ImageList"}})
    assert names_of_classes(1000, loaded, arguments, section) == expected
    assert names_of_classes(7, report(publisher="google"), arguments, section)[6] == "class 6"


def test_names_from_a_file(trained, changed, image, tmp_path, capsys):
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffÄpfel\r\nKiwi, reif\r\n梨\r\n".encode())
    assert read_class_names(str(file)) == ["Äpfel", "Kiwi, reif", "梨"]
    given = ["-c", str(trained[0]), "--weights", changed(lambda t, m: m.pop("class_names"))]
    assert predict_command.main([*given, image, "--topk", "1"]) == 0
    said = capsys.readouterr()
    assert "class 2" in said.out and "--class-names FILE" in said.err
    names = ["--class-names", str(file)]
    assert predict_command.main([*given, image, "--topk", "1", *names]) == 0
    said = capsys.readouterr()
    assert "梨" in said.out and "--class-names FILE" not in said.err
    assert predict_command.main([*given, image, *names, "--template", "a {}"]) == 2
    assert "--template are for networks that compare images with texts" in capsys.readouterr().err
    assert eval_command.main([*given, *names, "--report", str(tmp_path / "report")]) == 0
    assert "Kiwi, reif" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    out = tmp_path / "deploy"
    arguments = ["--output", str(out), "--format", "paddle"]
    assert export_command.main([*given, *names, *arguments]) == 0
    assert json.loads((out / "preprocessing.json").read_text(encoding="utf-8"))[
        "class_names"
    ] == ["Äpfel", "Kiwi, reif", "梨"]  # fmt: skip
    capsys.readouterr()
    for content, words in (
        (b"a\nb\n", "holds 2 names, but the network has 3 classes"),
        (b"a\n\nb\n", "names.txt:2: is empty"),
        (b"\xff\xfe\n", "is UTF-16"),
        (b"", "names.txt: is empty"),
        (None, "names.txt: cannot be read"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        assert predict_command.main([*given, image, *names]) == 2
        assert words in last_line(capsys)
    assert eval_command.main([*given, *names]) == 2 and "--report" in last_line(capsys)


def test_converted_weights_keep_the_names(trained, changed, tmp_path, capsys):
    model = build_architecture(get_config(trained[0]).model)
    for number, publisher in enumerate(("passl", "timm", "passl_v1")):
        target = tmp_path / f"{number}.safetensors"
        assert convert_command.main([str(trained[1]), str(target), "--to", publisher]) == 0
        assert "--class-names" not in capsys.readouterr().out
        found = load_weights(model, target)
        assert (found.publisher, found.metadata["class_names"]) == (
            publisher, ["apple", "kiwi", "pear"],
        )  # fmt: skip
        for name, array in WeightFile(trained[1]).read_group("model").items():
            np.testing.assert_array_equal(model.state_dict()[name].numpy(), array, err_msg=name)
    for suffix in (".pth", ".npz", ".pdparams"):
        assert convert_command.main([str(trained[1]), str(tmp_path / f"x{suffix}")]) == 0
        assert "no place for the names" in capsys.readouterr().out
    # A release says nothing about classes, and its own network of 1,000 has ImageNet's.
    nameless = changed(lambda tensors, metadata: metadata.pop("class_names"))
    for source, data in ((nameless, "ImageFolder"), (tmp_path / "x.npz", "ImageNet")):
        target = tmp_path / "converted.safetensors"
        assert convert_command.main([str(source), str(target), "--overwrite"]) == 0
        assert "no place" not in capsys.readouterr().out
        with WeightFile(target) as file:
            assert (file.metadata["data"], file.metadata["class_names"]) == (data, None)


def test_the_advice_is_true_for_whose_file_it_is_and_for_the_cause(trained, tmp_path, monkeypatch):
    empty, path = tmp_path / "latest.safetensors", str(trained[1])
    empty.write_bytes(b"")
    with pytest.raises(PasslError, match="is empty; download it again"):
        WeightFile(empty)
    with pytest.raises(
        PasslError, match="is empty; name another checkpoint with --resume"
    ) as error:
        Checkpoint.open(empty)
    assert "download" not in str(error.value)

    def broken(code):
        def read_at(window, begin, count):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(stored_array.Window, "read_at", read_at)
        with WeightFile(path) as file, pytest.raises(PasslError) as error:
            file.read("head.fc.bias")
        return str(error.value)

    assert "download" not in broken(errno.EIO) and "see dmesg" in broken(errno.EIO)
    assert "is damaged" in broken(errno.EINVAL)  # a place that no file has

    def no_more(*arguments, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(reading, "open", no_more, raising=False)
    with pytest.raises(PasslError, match="cannot be read .*ulimit -n"):
        WeightFile(path)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("MlpMixer", {"pretrained": True}, "pretrained=True: there are no released weights"),
        ("mlp_mixer_s32_224", {"cache_dir": "x"}, "in the folder weights of PASSL_CACHE"),
        ("mlp_mixer_s32_224", {"pretrained": 3}, "pretrained is the path"),
        ("mlp_mixer_s32_224", {"num_clases": 5}, "did you mean 'num_classes'"),
        ("mlp_mixer_s32_224", {"img_sizes": 5}, "did you mean 'img_size'"),
        ("mlp_mixer_s32_224", {"in_chans": 3}, "'in_chans'.*in_channels"),
        ("mlp_mixer_s32_224", {"global_pool": ""}, "num_classes=0.*forward_features"),
        ("mlp_mixer_s32_224", {"features_only": True}, "forward_stages"),
        ("mlp_mixer_s32_224", {"checkpoint_path": "x"}, "pretrained=FILE"),
        ("cyclemlp_b1", {"img_size": 224}, "images of any size"),
        ("mixer_b16_224", {}, "did you mean 'mlp_mixer_b16_224'"),
        ("mixer_b16_224.goog_in21k_ft_in1k", {}, "what timm calls so is 'mlp_mixer_b16_224.goog"),
        ("mlp_mixer_b16_224.goog_in1", {}, "did you mean 'mlp_mixer_b16_224.goog_in1k'"),
        ("efficientnet_b0", {}, "unknown backbone 'efficientnet_b0'; known"),
    ],
)
def test_what_users_of_timm_write(name, arguments, words):
    with pytest.raises(PasslError, match=words) as error:
        create_model(name, **arguments)
    assert "\n" not in str(error.value)


def test_no_weights_are_false_as_well_as_none():
    assert create_model("MlpMixer", pretrained=False, num_classes=2, **SMALL).num_classes == 2


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("MlpMixer", SMALL),
        ("ResMlp", SMALL),
        ("Gmlp", SMALL),
        ("VisionPermutator", {"img_size": 16, "patch_size": 4, "embed_dims": [16], "depths": [1],
                              "halved": []}),
        ("CycleMlp", {"embed_dims": [8], "depths": [1], "mlp_ratios": [1]}),
        ("ConvMlp", {"embed_dims": [8], "depths": [1], "mlp_ratios": [1], "stem_channels": 4}),
    ],
)  # fmt: skip
def test_images_of_another_shape_are_one_line(name, sizes):
    model = create_model(name, num_classes=2, **sizes)
    for images, words in (
        (paddle.zeros([3, 16, 16]), r"not \[3, 16, 16\].*unsqueeze"),
        (paddle.zeros([2, 16, 16, 3]), r"not \[2, 16, 16, 3\].*transpose"),
        (paddle.zeros([2, 1, 16, 16]), r"not \[2, 1, 16, 16\].*in_channels=1"),
        (paddle.zeros([2, 3, 16, 16], "uint8"), "not uint8.*Normalize"),
        ([[0.0, 1.0]], "not a list"),
        (np.zeros((2, 3, 16, 16), np.float32), "not a ndarray"),
    ):
        with pytest.raises(
            PasslError, match=r"images are one float tensor \[N, 3, H, W\].*" + words
        ):
            model(images)
    assert model(paddle.zeros([2, 3, 16, 16])).shape == [2, 2]
