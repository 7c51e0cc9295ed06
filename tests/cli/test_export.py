"""``tools/export.py``: files that other programs run, and what they need to know about images."""

import json
import os
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

from passl.cli import benchmark as benchmark_command
from passl.cli import export as export_command
from passl.cli import predict as predict_command
from passl.deployment import runtimes
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config
from passl.weights import load_weights


def prepare(paths, description):
    """Prepares images as the file beside the model says, by Pillow and NumPy alone."""
    (crop,), (normalize,) = description["transforms"], description["batch_transforms"]
    assert crop["name"] == "ResizeCenterCrop" and crop["interpolation"] == "bicubic"
    side = crop["size"]
    images = []
    for path in paths:
        with Image.open(path) as image:
            short = int(side / crop["crop_ratio"])
            scale = short / min(image.size)
            size = tuple(short if n == min(image.size) else int(n * scale) for n in image.size)
            image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            left, top = (round((n - side) / 2) for n in size)
            images.append(np.asarray(image.crop((left, top, left + side, top + side))))
    pixels = np.stack(images) / 255
    pixels = (pixels - normalize["mean"]) / normalize["std"]
    return pixels.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    config, weights = trained
    folder = tmp_path_factory.mktemp("exported")
    argv = ["-c", str(config), "--weights", str(weights), "--output", str(folder), "--int8"]
    assert export_command.main(argv) == 0
    return folder


@pytest.mark.smoke
def test_photographs_get_the_logits_of_the_network(exported, trained, photos, tmp_path):
    config, weights = trained
    description = json.loads((exported / "preprocessing.json").read_text())
    paths = sorted((photos / "val").rglob("*.jpg"))
    images = prepare(paths, description)
    network = build_architecture(get_config(config).model)
    load_weights(network, weights)
    network.eval()
    with paddle.no_grad():
        expected = network({"image": paddle.to_tensor(images)})["logits"].numpy()
    assert np.abs(expected).max() > 0.1
    for run in (
        runtimes.paddle_inference(exported),
        runtimes.paddle_inference(exported, onednn=True),
        runtimes.onnx_runtime(exported / "model.onnx"),
        runtimes.openvino(exported / "model.onnx"),
    ):
        for count in (1, 5, len(images)):  # the batch is free
            logits = run(images[:count])
            assert logits.shape == (count, 3)
            np.testing.assert_allclose(
                logits, expected[:count], rtol=0, atol=1e-4 * np.abs(expected).max()
            )
    assert set(description["differences"]) == {"paddle", "onnx", "onnx_int8"}
    assert max(description["differences"][name] for name in ("paddle", "onnx")) <= 1e-4
    # What tools/predict.py says of the same images.
    answers = tmp_path / "answers.json"
    argv = ["-c", str(config), "--weights", str(weights), "--json", str(answers)]
    assert predict_command.main([*argv, *map(str, paths)]) == 0
    said = [answer["names"][0] for answer in json.loads(answers.read_text())]
    assert said == [description["class_names"][label] for label in expected.argmax(1)]


def test_an_int8_file_is_small_and_says_how_far_off_it_is(exported):
    description = json.loads((exported / "preprocessing.json").read_text())
    images = np.random.default_rng(5).standard_normal((4, 3, 16, 16)).astype(np.float32)
    whole = runtimes.onnx_runtime(exported / "model.onnx")(images)
    small = runtimes.onnx_runtime(exported / "model_int8.onnx")(images)
    off = runtimes.difference(small, whole)
    assert 0 < off < 0.2 and 0 < description["differences"]["onnx_int8"] < 0.2
    import onnx

    weights = onnx.load(str(exported / "model_int8.onnx")).graph.initializer
    eight = sum(np.prod(w.dims) for w in weights if w.data_type == onnx.TensorProto.INT8)
    assert eight > 0.9 * sum(np.prod(w.dims) for w in weights)


def test_an_onnx_file_stands_alone(exported):
    import onnx

    model = onnx.load(str(exported / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    (source,), (result,) = model.graph.input, model.graph.output
    assert source.name == "image" and result.name == "logits"
    assert source.type.tensor_type.shape.dim[0].dim_param == "batch"
    recorded = json.loads({p.key: p.value for p in model.metadata_props}["passl"])
    assert recorded["class_names"] == ["apple", "kiwi", "pear"]
    assert recorded["batch_transforms"][0]["mean"] == [0.5, 0.5, 0.5]


def test_features(trained, tmp_path):
    config, weights = trained
    argv = ["-c", str(config), "--weights", str(weights), "--output", str(tmp_path)]
    assert export_command.main([*argv, "--features", "--format", "paddle"]) == 0
    assert not (tmp_path / "model.onnx").exists()
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    network = build_architecture(get_config(config).model)
    load_weights(network, weights)
    network.eval()
    with paddle.no_grad():
        expected = network.backbone(paddle.to_tensor(images)).numpy()
    found = runtimes.paddle_inference(tmp_path)(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_that_gives_other_logits_is_not_kept(trained, tmp_path, capsys, monkeypatch):
    config, weights = trained
    real = runtimes.onnx_runtime
    monkeypatch.setattr(
        runtimes, "onnx_runtime", lambda path: lambda images: 1.001 * real(path)(images)
    )
    argv = ["-c", str(config), "--weights", str(weights), "--output", str(tmp_path / "out")]
    assert export_command.main(argv) == 2
    err = capsys.readouterr().err
    assert "ONNX Runtime gives other logits" in err and err.count("\n") == 1
    assert os.listdir(tmp_path / "out") == []


def test_what_a_user_can_get_wrong(trained, tmp_path, capsys, monkeypatch):
    config, weights = map(str, trained)
    file = tmp_path / "file"
    file.write_text("")
    out = str(tmp_path / "out")
    for arguments, said in (
        (["--output", out, "--int8", "--format", "paddle"], "add --format onnx"),
        (["--output", str(file)], f"{file}: is a file, and a folder is needed"),
        (["--output", out, "--weights", str(tmp_path / "none.npz")], "none.npz"),
    ):
        argv = ["-c", config, "--weights", weights, *arguments]
        assert export_command.main(argv) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_without_the_packages_of_onnx_the_other_format_is_written(
    trained, tmp_path, capsys, monkeypatch
):
    config, weights = map(str, trained)
    out = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "onnxoptimizer", None)
    argv = ["-c", config, "--weights", weights, "--output", str(out)]
    for asked in (["--format", "onnx"], ["--int8"]):
        assert export_command.main([*argv, *asked]) == 2
        err = capsys.readouterr().err
        assert err.endswith(": pip install onnxoptimizer\n") and err.count("\n") == 1
        assert not out.exists()
    for asked, said in (([], 1), (["--format", "paddle"], 0)):
        assert export_command.main([*argv, *asked]) == 0
        assert capsys.readouterr().out.count("pip install onnxoptimizer") == said
        assert runtimes.program_file(out).exists() and not (out / "model.onnx").exists()


def test_every_runtime_is_timed_on_the_same_images(config_file, tmp_path, capsys):
    result = tmp_path / "result.json"
    argv = ["infer", "-c", config_file(), "--repeats", "3", "--steps", "2", "--json", str(result)]
    assert benchmark_command.main([*argv, "--batch-sizes", "2", "1"]) == 0
    out = capsys.readouterr().out
    answer = json.loads(result.read_text())
    exact = ["eager", "Paddle Inference", "Paddle Inference, oneDNN", "ONNX Runtime", "OpenVINO"]
    rounded = ["Paddle Inference, oneDNN bfloat16", "OpenVINO bfloat16"]
    has_bfloat16 = [runtimes.has_avx512(), runtimes.openvino_has_bfloat16()]
    for name, has in zip(rounded, has_bfloat16):
        assert (name in answer["runtimes"]) == has and (name in answer["left_out"]) != has
    names = [*exact, *(name for name, has in zip(rounded, has_bfloat16) if has)]
    for name in names:
        row = answer["runtimes"][name]
        assert (row["difference"] <= 1e-4) == (name in exact) and name in out
        for count in (1, 2):
            cell = row[str(count)]
            assert cell["images_per_second"] == pytest.approx(1e3 * count / cell["milliseconds"])
            assert cell["ratio"] > 0
    assert answer["runtimes"]["eager"]["1"]["ratio"] == 1
    assert set(answer["fastest"].values()) <= set(exact)
    assert "deploy, at batch 1: " in out


def test_a_process_has_one_openvino(exported, monkeypatch):
    """With two, a signal after the end of the first and then of the second ends the process."""
    import openvino

    runtimes.openvino_has_bfloat16()
    monkeypatch.setattr(openvino, "Core", None)
    assert runtimes.openvino(exported / "model.onnx")(np.zeros((1, 3, 16, 16), np.float32)).any()


def test_onnx_runtime_computes_as_paddle_does_on_its_device(monkeypatch):
    """Not with whatever else is installed, which may round more coarsely."""
    installed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert runtimes._providers(installed) == ["CPUExecutionProvider"]
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    (cuda, options), processor = runtimes._providers(installed)
    assert (cuda, processor) == tuple(installed[1:]) and options == {"use_tf32": 1}
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # what tf32: false sets
    assert runtimes._providers(installed)[0] == (cuda, {"use_tf32": 0})
    assert runtimes._providers(installed[2:]) == ["CPUExecutionProvider"]
