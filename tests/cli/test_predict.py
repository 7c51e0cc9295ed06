"""``tools/predict.py`` on files, folders and lists: names, probabilities, features, pictures."""

import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from helpers import ROOT, run_here
from PIL import Image

from passl.cli import predict as predict_command
from passl.datasets.sources.class_names import imagenet_classes, readable_names
from passl.datasets.sources.paths import ImagePaths, find_images
from passl.datasets.view import evaluation_view
from passl.deployment.predictor import prediction_loader
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import load_weights


def by_hand(config, weights, path):
    """The probabilities of one image, by Pillow, NumPy and the bare network."""
    cfg = get_config(config)
    network = build_architecture(cfg.model)
    load_weights(network, weights)
    network.eval()
    with Image.open(path) as image:
        width, height = image.size
        short = int(16 / 0.875)
        size = (short, int(short * height / width))
        if width > height:
            size = (int(short * width / height), short)
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 16) / 2), round((size[1] - 16) / 2)
        pixels = np.asarray(image.crop((left, top, left + 16, top + 16))).astype(np.float64)
    pixels = ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)
    with paddle.no_grad():
        logits = network({"image": paddle.to_tensor(pixels)})["logits"].numpy()[0]
        features = network.backbone(paddle.to_tensor(pixels)).numpy()[0]
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum(), features


def test_folders_files_and_answers(trained, photos, tmp_path):
    config, weights = trained
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    one = photos / "test" / "kiwi" / "001.jpg"
    code, out, err = run_here(
        "predict", "-c", config, "--weights", weights, "--topk", "2", "--output", tmp_path / "out",
        "--json", tmp_path / "answers.json", photos / "val", one, broken,
    )  # fmt: skip
    assert code == 0, err
    assert "skipped an image" in err and str(broken) in err
    answers = json.loads((tmp_path / "answers.json").read_text())
    assert answers == json.loads((tmp_path / "out" / "predictions.json").read_text())
    expected = sorted(str(path) for path in (photos / "val").rglob("*.jpg")) + [str(one)]
    assert [answer["path"] for answer in answers] == expected
    for answer in answers[::5]:
        wanted, _ = by_hand(config, weights, answer["path"])
        order = np.argsort(-wanted)[:2]
        assert answer["labels"] == order.tolist()
        assert answer["names"] == [["apple", "kiwi", "pear"][label] for label in order]
        np.testing.assert_allclose(answer["probabilities"], wanted[order], atol=1e-5)
    lines = out.splitlines()
    assert lines[0] == expected[0] and len(lines) == 3 * len(expected)
    first = answers[0]
    assert lines[1] == f"  {100 * first['probabilities'][0]:6.2f} %  {first['names'][0]}"
    with Image.open(tmp_path / "out" / "contact_sheet_001.png") as sheet:
        assert (
            sheet.width > 6 * 160 and len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 500
        )


def test_a_list_on_the_standard_input(trained, photos, tmp_path):
    config, weights = trained
    names = sorted(str(path) for path in (photos / "test").rglob("*.jpg"))[:3]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "features.py", "-c", config, "--weights", weights,
         "--output", tmp_path / "out", "--batch-size", "2", "-"],
        input="\n".join(names) + "\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "features.npz") as arrays:
        assert arrays["paths"].tolist() == names and arrays["features"].shape == (3, 64)
        for name, row in zip(names, arrays["features"]):
            np.testing.assert_allclose(row, by_hand(config, weights, name)[1], atol=1e-5)


def test_mistakes_are_one_line(trained, photos, tmp_path, capsys):
    config, weights = trained
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    for arguments, words in (
        (["https://example.org/cat.jpg"], "is an address; images are read from the disk alone"),
        ([tmp_path / "none.jpg"], "none.jpg: there is no such file or folder"),
        ([empty], "holds no image file"),
        ([broken], "broken.png: is in no image format"),
        ([photos / "val", "--topk", "0"], "--topk is at least 1"),
        ([photos / "val", "--batch-size", "0"], "--batch-size is at least 1"),
    ):
        given = ["-c", config, "--weights", weights, *arguments]
        code, err = predict_command.main([str(part) for part in given]), capsys.readouterr().err
        last = err.strip().splitlines()[-1]
        assert code == 2 and last.startswith("error: ") and words in last, err


def test_images_are_found_in_order_and_hidden_ones_are_not(photos, tmp_path):
    source = next((photos / "val").rglob("*.jpg"))
    for name in ("b.JPG", "a/x.jpeg", ".cache/y.jpg", "a/.z.png", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / name)
    found = find_images([str(tmp_path), str(source)])
    assert found == [str(tmp_path / "a" / "x.jpeg"), str(tmp_path / "b.JPG"), str(source)]
    with pytest.raises(PasslError, match="is an address"):
        find_images(["s3://bucket/cat.jpg"])


def test_names_of_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000 and [wnid for wnid, _ in classes] == sorted(w for w, _ in classes)
    # Well-known labels of ImageNet-1k.
    for label, word in ((0, "tench"), (1, "goldfish"), (207, "golden retriever"), (281, "tabby"),
                        (463, "bucket"), (954, "banana"), (999, "toilet tissue")):  # fmt: skip
        assert readable_names(1000, None, imagenet=True)[label].startswith(word), label
    wnids = [wnid for wnid, _ in classes]
    assert readable_names(1000, wnids) == readable_names(1000, None, imagenet=True)
    # The number alone says nothing.
    assert readable_names(1000, None) == [f"class {label}" for label in range(1000)]
    assert readable_names(2, ["n02123045", "mine"]) == ["tabby, tabby cat", "mine"]
    assert readable_names(3, None) == ["class 0", "class 1", "class 2"]


def test_many_images_are_read_by_workers_and_few_are_not(trained, photos):
    config, _ = trained
    section = evaluation_view(get_config(config))
    path = str(next((photos / "val").rglob("*.jpg")))
    for count, workers in ((32, 0), (33, 2)):
        dataset = ImagePaths([path] * count)
        assert prediction_loader(dataset, section, 8).num_workers == workers


def test_images_are_looked_at_as_those_that_chose_the_weights(trained):
    """``val`` before ``test``, and ``test`` where there is no ``val``."""
    config, _ = trained
    cfg = get_config(config, ["dataloader.test.dataset.transforms.0.size=24"])
    assert evaluation_view(cfg).dataset.transforms[0].size == 16
    cfg = get_config(
        config, ["dataloader.test.dataset.transforms.0.size=24", "dataloader.val=null"]
    )
    assert evaluation_view(cfg).dataset.transforms[0].size == 24
