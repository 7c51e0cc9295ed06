"""Classification by names: against sentences that are embedded one by one, and its refusals."""

import hashlib
import os
from pathlib import Path

import numpy as np
import paddle
import pytest
from clip import clip

import passl.evaluation
from passl.datasets import build_dataset
from passl.evaluation.base import evaluation_loader
from passl.evaluation.zero_shot import (
    ZeroShot,
    imagenet_names,
    read_templates,
    zero_shot_classifier,
)
from passl.modeling.architectures import build_architecture
from passl.utils.config import Config
from passl.utils.errors import PasslError

NAMES = ["tench", "great white shark", "cock"]
TEMPLATES = ["a photo of a {}.", "art of the {}, which nobody {} has ever seen"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zero_shot"


@pytest.fixture(scope="module")
def network():
    network = clip("ViT")
    network.eval()
    return network


def one_by_one(network, names, templates):
    """Returns the classifier by the words of the paper, in float64, from whole contexts."""
    rows = []
    for name in names:
        found = []
        for template in templates:
            ids, _ = network.tokenizer([template.replace("{}", name)], 77)
            with paddle.no_grad():
                row = network.embed_texts(paddle.to_tensor(ids)).numpy()[0].astype(np.float64)
            found.append(row / np.linalg.norm(row))
        mean = np.mean(found, axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.array(rows)


@pytest.mark.smoke
def test_a_class_is_the_mean_of_its_sentences(network):
    found = zero_shot_classifier(network, NAMES, TEMPLATES).numpy()
    np.testing.assert_allclose(found, one_by_one(network, NAMES, TEMPLATES), atol=2e-6)


@pytest.mark.smoke
def test_the_lists_are_those_of_the_authors():
    """By the hashes that the notebook's and open_clip's lists have."""
    folder = Path(passl.evaluation.__file__).parent
    said = (folder / "imagenet_prompts.md").read_text(encoding="utf-8")
    for lines, begin in ((imagenet_names(), "571ae1c5"), (read_templates("imagenet"), "4f976686")):
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        assert digest.startswith(begin) and digest in said
    names = imagenet_names()
    assert len(names) == 1000 and names[657] == names[744] and names[836] == names[837]
    assert len(read_templates("imagenet")) == 80
    assert set(read_templates("imagenet_7")) < set(read_templates("imagenet"))
    assert len(read_templates("imagenet_7")) == 7


def set_of(folder, names, per_class=2):
    from helpers import photograph

    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(per_class):
            photograph(10 * i + j, (40, 36)).save(folder / name / f"{j}.png")
    section = Config(
        {
            "dataset": {
                "name": "ImageFolder",
                "dataroot": str(folder),
                "transforms": [{"name": "ResizeCenterCrop", "size": 32, "crop_ratio": 1.0}],
            },
            "batch_transforms": [{"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}],
            "sampler": {"batch_size": 3},
            "loader": {
                "num_workers": 0,
                "use_shared_memory": True,
                "max_unreadable": 0,
                "max_pixels": None,
                "timeout": 600,
            },
        }
    )
    return evaluation_loader(build_dataset(section.dataset, None), section)


def measured(network, loader, **settings):
    return ZeroShot(**settings).evaluate(network, loader)


def test_accuracy_is_that_of_the_nearest_name(network, tmp_path):
    loader = set_of(tmp_path / "set", ["alarm_clock", "cock", "tench"], 4)
    result = measured(network, loader)
    classifier = one_by_one(network, ["alarm clock", "cock", "tench"], ["a photo of a {}."])
    right = 0
    for batch in loader:
        with paddle.no_grad():
            images = network.embed_images(batch["image"]).numpy()
        order = np.argsort(-(images @ classifier.T), axis=1)
        right += (order[:, 0] == batch["label"].numpy()).sum()
    assert result["top1"] == pytest.approx(100 * right / 12) and result["top5"] == 100.0
    assert (result["classes"], result["templates"], result["samples"]) == (3, 1, 12)
    assert "ties" not in result


def test_equal_names_are_ties_and_rank_by_number(network, tmp_path):
    loader = set_of(tmp_path / "set", ["a", "b", "c"], 4)
    names = tmp_path / "names.txt"
    names.write_text("cock\ncock\ncock\n")
    result = measured(network, loader, class_names=str(names))
    assert result["ties"] == 12 and result["top1"] == pytest.approx(100 / 3)


def test_identifiers_of_imagenet_are_numbered_as_there(network, tmp_path):
    loader = set_of(tmp_path / "set", ["n01443537", "n15075141"])  # goldfish, toilet paper
    evaluator = ZeroShot(class_names="imagenet")
    evaluator.check(loader.dataset)
    assert loader.dataset.labels.tolist() == [1, 1, 999, 999]
    assert evaluator.names[1] == "goldfish" and evaluator.names[999] == "toilet paper"


def test_the_cache_knows_the_content(network, cache, monkeypatch):
    first = zero_shot_classifier(network, NAMES, TEMPLATES).numpy()
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr("passl.evaluation.zero_shot._embedded", None)  # is not called again
    np.testing.assert_array_equal(zero_shot_classifier(network, NAMES, TEMPLATES).numpy(), first)
    monkeypatch.undo()
    monkeypatch.setenv("PASSL_CACHE", str(cache.parent))
    zero_shot_classifier(network, NAMES, TEMPLATES[:1])
    zero_shot_classifier(network, [*NAMES[:2], "hen"], TEMPLATES)
    other = clip("ViT", quick_gelu=True)
    assert np.abs(zero_shot_classifier(other, NAMES, TEMPLATES).numpy() - first).max() > 1e-4
    changed = clip("ViT")
    changed.eval()
    weight = changed.text.blocks[0].mlp.fc1.weight
    weight.set_value(weight * 2.0)
    assert np.abs(zero_shot_classifier(changed, NAMES, TEMPLATES).numpy() - first).max() > 1e-4
    assert len(list(cache.iterdir())) == 5
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    np.testing.assert_allclose(
        zero_shot_classifier(network, NAMES, TEMPLATES).numpy(), first, atol=1e-7
    )


def test_those_not_used_for_longest_are_removed(network, cache):
    made = []
    for i in range(16):
        zero_shot_classifier(network, ["cock", f"thing {i}"], ["a {}"])
        (file,) = set(cache.iterdir()) - set(made)
        os.utime(file, (1000 + i, 1000 + i))
        made.append(file)
    zero_shot_classifier(network, ["cock", "thing 0"], ["a {}"])  # is used
    for i in range(16, 18):
        zero_shot_classifier(network, ["cock", f"thing {i}"], ["a {}"])
    assert len(list(cache.iterdir())) == 16
    assert made[0].exists() and not made[1].exists() and not made[2].exists()


def test_a_network_in_training_is_not_kept(network, cache, tmp_path):
    """Every evaluation finds other weights, which would drive out what is of use."""
    loader = set_of(tmp_path / "set", ["cock", "tench"])
    in_training = ZeroShot().evaluate(network, loader, learning=True)
    assert not cache.exists()
    assert measured(network, loader)["top1"] == in_training["top1"]
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"templates": ["a photo"]},
            "has {} where the name of the class goes: a photo",
        ),
        ({"templates": []}, "at least one, such as"),
        ({"templates": "missing.txt"}, "missing.txt"),
    ],
)
def test_templates_that_are_none(settings, message):
    with pytest.raises(PasslError, match=message):
        ZeroShot(**settings)


def test_what_is_refused(network, tmp_path):
    loader = set_of(tmp_path / "set", ["a", "b", "c"])
    names = tmp_path / "names.txt"
    names.write_text("cock\nhen\n")
    with pytest.raises(PasslError, match="label 2, but there are 2 names of classes .*names.txt"):
        measured(network, loader, class_names=str(names))
    classifier = build_architecture(
        {
            "architecture": {"name": "ResNet", "blocks": [1], "width": 4, "bottleneck": False},
            "head": {"name": "ClassificationHead", "num_classes": 3},
        }
    )
    with pytest.raises(PasslError, match="Classifier embeds no texts; take a model of name CLIP"):
        measured(classifier, loader)
    loader.dataset.class_names = None
    with pytest.raises(PasslError, match="evaluate.evaluator.class_names"):
        measured(network, loader)
