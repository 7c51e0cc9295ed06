"""The package in a program: networks, runs, releases, images of every kind, training."""

import functools
import inspect
import json

import numpy as np
import paddle
import pytest
import yaml
from clip import clip
from helpers import photograph, run_here, small_config
from PIL import Image

import passl
from passl.building import create_model
from passl.datasets.sources.class_names import imagenet_classes
from passl.modeling.backbones import BACKBONES
from passl.using import TrainedNetwork, View
from passl.utils.arrays import own_array
from passl.utils.config import Config
from passl.utils.errors import PasslError
from passl.utils.zoo import releases
from passl.weights import write_tensor_file

NAME = "vit_ti16_224.augreg_in21k_ft_in1k"


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run of one epoch that a program made."""
    folder = tmp_path_factory.mktemp("run")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(photos)))
    record = passl.train(path, ["epochs=1", f"output_dir={folder / 'out'}"])
    assert record["split"] == "test" and 0 <= record["top1"] <= 100
    return folder / "out"


@pytest.fixture
def narrow(monkeypatch):
    small = functools.partial(
        BACKBONES._factories["vit_ti16_224"], num_blocks=1, embed_dim=16, num_heads=2
    )
    monkeypatch.setitem(BACKBONES._factories, "vit_ti16_224", small)


@pytest.mark.smoke
def test_a_run_answers_as_the_command_does(run, photos, tmp_path):
    paths = sorted(map(str, (photos / "val").rglob("*.jpg")))
    code, out, err = run_here(
        "predict", "-c", run / "config.yaml", *paths, "--json", tmp_path / "answers.json"
    )
    assert code == 0, err
    expected = json.loads((tmp_path / "answers.json").read_text())
    predict = passl.Predictor(run, topk=2, batch_size=4)
    found = predict(paths)
    for answer, theirs in zip(found, expected):
        assert answer.path == theirs["path"] and answer.names == theirs["names"][:2]
        np.testing.assert_allclose(answer.probabilities, theirs["probabilities"][:2], rtol=1e-5)
    one = predict(paths[3])
    assert (one.path, one.labels) == (found[3].path, found[3].labels)
    assert predict([]) == [] and len(predict(paths[:1])) == 1


@pytest.mark.smoke
def test_the_parts_of_a_run_give_the_same_by_hand(run, photos):
    loaded = passl.load_run(run)
    assert loaded.class_names == ["apple", "kiwi", "pear"]
    assert loaded.weights.endswith("best.safetensors") and not loaded.network.training
    assert loaded.records[-1]["split"] == "test" and loaded.config.epochs == 1
    path = sorted((photos / "val").rglob("*.jpg"))[0]
    logits = loaded.network(loaded.transforms([path]))[0].numpy().astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum()
    answer = passl.Predictor(loaded)(path)
    assert answer.labels == np.argsort(-shares).tolist()
    np.testing.assert_allclose(answer.probabilities, np.sort(shares)[::-1], rtol=1e-5)
    # Pillow and NumPy alone: the view is that of the config.
    with Image.open(path) as image:
        scale = int(16 / 0.875) / min(image.size)
        size = tuple(
            int(16 / 0.875) if n == min(image.size) else int(n * scale) for n in image.size
        )
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = (round((n - 16) / 2) for n in size)
        pixels = np.asarray(image.crop((left, top, left + 16, top + 16)))
    view = loaded.transforms(path).numpy()
    assert view.shape == (3, 16, 16) and view.dtype == np.float32
    np.testing.assert_allclose(view, ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1), atol=1e-6)
    latest = run / "checkpoints" / "latest.safetensors"
    assert passl.load_run(run, weights=str(latest)).weights == str(latest)


def test_images_of_every_kind_are_the_same_image(run, tmp_path):
    picture = photograph(5, (40, 30))
    path = tmp_path / "照片.png"
    picture.save(path)
    view = passl.load_run(run).transforms
    expected = view(path).numpy()
    with Image.open(path) as lazily:
        for image in (str(path), picture, np.asarray(picture), lazily):
            np.testing.assert_array_equal(view(image).numpy(), expected)
    both = view([path, picture]).numpy()
    np.testing.assert_array_equal(both, np.stack([expected, expected]))
    # Other modes as from their files.
    for number, mode in enumerate(("L", "RGBA", "P", "CMYK", "1", "I;16")):
        image = picture.convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        file = tmp_path / f"{number}.{'tif' if mode == 'CMYK' else 'png'}"
        image.save(file)
        with Image.open(file) as again:
            np.testing.assert_array_equal(view(again).numpy(), view(file).numpy(), err_msg=mode)
    grey = np.asarray(picture.convert("L"))
    np.testing.assert_array_equal(
        view(grey).numpy(), view(np.repeat(grey[:, :, None], 3, axis=2)).numpy()
    )


def test_what_is_no_image_is_said_in_one_line(run, tmp_path):
    loaded = passl.load_run(run)
    predict = passl.Predictor(loaded)
    text = tmp_path / "note.jpg"
    text.write_text("no image")
    for image, message in (
        (np.zeros((4, 4, 3), np.float32), r"image 0: is an array float32 \[4, 4, 3\]"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \[H, W, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
        (None, "image 0: is a NoneType; an image is a path"),
        (b"bytes", "is a bytes"),
        (tmp_path / "missing.jpg", "missing.jpg"),
        (text, "note.jpg"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "floating-point pixels"),
    ):
        for use in (loaded.transforms, predict):
            with pytest.raises(PasslError, match=message):
                use(image)
    with pytest.raises(PasslError, match="image 1: is a NoneType"):
        predict([np.zeros((4, 4, 3), np.uint8), None])


def test_a_release_has_its_view_and_its_names(narrow, tmp_path):
    network = create_model("vit_ti16_224")
    arrays = {name: own_array(tensor) for name, tensor in network.state_dict().items()}
    path = tmp_path / "released.safetensors"
    write_tensor_file(path, arrays, {"kind": "weights", "data": "ImageNet"})
    loaded = passl.load_release(NAME, weights=path)
    assert loaded.class_names == [words for _, words in imagenet_classes()]
    assert loaded.records == [] and "1000 classes" in repr(loaded)
    image = photograph(1, (300, 260))
    np.testing.assert_array_equal(
        passl.transforms_of(NAME)(image).numpy(), loaded.transforms(image).numpy()
    )
    assert "crop_ratio 0.9" in repr(passl.transforms_of(NAME))
    answer = passl.Predictor(loaded, topk=3)(image)
    assert len(answer.names) == 3 and answer.path == "image 0"


def test_words_tell_apart_with_clip(tmp_path, monkeypatch):
    """By CLIP's figure 3, in float64."""
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    network = clip("ViT")
    network.eval()
    view = passl.transforms_of("clip_vit_b32_224.openai")
    section = Config(
        {
            "dataset": {"transforms": [{"name": "Resize", "size": 32}]},
            "batch_transforms": view._section.batch_transforms,
        }
    )
    loaded = TrainedNetwork(network, None, View(section), Config({}), [], "clip.pt")
    names, image = ["a cat", "一只狗"], photograph(2, (40, 40))
    answer = passl.Predictor(loaded, labels=names, template="art of {}.")(image)
    with paddle.no_grad():
        ids, _ = network.tokenizer([f"art of {name}." for name in names], network.context)
        rows = network.embed_texts(paddle.to_tensor(ids)).numpy().astype(np.float64)
        one = network.embed_images(loaded.transforms([image])).numpy()[0].astype(np.float64)
    cosines = rows @ one / np.linalg.norm(rows, axis=1) / np.linalg.norm(one)
    logits = float(network.logit_scale.exp()) * cosines
    shares = np.exp(logits) / np.exp(logits).sum()
    assert answer.names == [names[i] for i in np.argsort(-shares)]
    np.testing.assert_allclose(answer.probabilities, np.sort(shares)[::-1], rtol=1e-4)
    with pytest.raises(PasslError, match="CLIP tells apart what it is told to: labels="):
        passl.Predictor(loaded)


def test_what_there_is(tmp_path):
    assert passl.list_models("mlp_mixer_l*") == ["mlp_mixer_l16_224", "mlp_mixer_l32_224"]
    assert passl.list_models("mlp_mixer_l16*", pretrained=True) == [
        "mlp_mixer_l16_224.goog_in1k", "mlp_mixer_l16_224.goog_in21k",
    ]  # fmt: skip
    assert set(passl.list_models(pretrained=True)) == set(releases())
    assert "MlpMixer" not in passl.list_models() and "swin_t_224" in passl.list_models()
    assert set(dir(passl)) == set(passl.__all__)
    for name in passl.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(passl, name)) and f"    {name} " in passl.__doc__
    for name in passl.list_models("vit_s*"):
        assert BACKBONES.get(name)


def test_mistakes(run, tmp_path):
    for call, message in (
        (lambda: passl.load_run(tmp_path), "is no folder of a run: it has no config.yaml"),
        (lambda: passl.Predictor("vit_ti16"), "neither the folder of a run nor a release"),
        (lambda: passl.transforms_of("vit_ti16_224"), "the model zoo has no 'vit_ti16_224'"),
        (lambda: passl.Predictor(run, topk=0), "at least 1"),
        (lambda: passl.Predictor(run, labels=["a", "b"]), "labels are for networks that compare"),
        (lambda: passl.train("nothing"), "there is no such config file"),
    ):
        with pytest.raises(PasslError, match=message):
            call()


def test_a_run_begins_from_another(run, photos, tmp_path):
    slow = "lr_scheduler.learning_rate=1.0e-12"
    cfg = passl.get_config(run / "config.yaml", [f"output_dir={tmp_path / 'next'}", slow])
    record = passl.train(cfg, pretrained=run)
    assert record["epoch"] == 1
    one, other = (
        passl.load_run(folder).network.state_dict() for folder in (run, tmp_path / "next")
    )
    for name, tensor in one.items():
        np.testing.assert_allclose(other[name].numpy(), tensor.numpy(), atol=1e-7, err_msg=name)
    first = passl.load_run(tmp_path / "next").records[0]
    assert first["step"] == 1 and paddle.get_device().startswith(("cpu", "gpu"))
    with pytest.raises(PasslError, match="holds a run already"):
        passl.train(cfg)
    again = passl.train(cfg, resume="auto")
    assert {k: v for k, v in again.items() if "seconds" not in k and "per" not in k} == {
        k: v for k, v in record.items() if "seconds" not in k and "per" not in k
    }
