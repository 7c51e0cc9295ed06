"""What images are compared with in zero-shot classification: by several processes, and how read."""

import numpy as np
import paddle
import pytest
from clip import clip
from helpers import photograph
from thread_processes import Thread, gather_rows, in_two

from passl.datasets import build_dataset
from passl.evaluation import gathering
from passl.evaluation.zero_shot import ZeroShot, zero_shot_classifier
from passl.utils.config import Config

TEMPLATES = ["a photo of a {}.", "art of the {}."]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))


def by_sentences(network, names):
    """Embeds sentence after sentence, in evaluation mode; means in float64."""
    network.eval()
    rows = []
    for name in names:
        found = []
        for template in TEMPLATES:
            ids, _ = network.tokenizer([template.replace("{}", name)], 77)
            with paddle.no_grad():
                row = network.embed_texts(paddle.to_tensor(ids)).numpy()[0].astype(np.float64)
            found.append(row / np.linalg.norm(row))
        rows.append(np.mean(found, axis=0) / np.linalg.norm(np.mean(found, axis=0)))
    return np.array(rows)


@pytest.mark.parametrize("names", [["cock", "tench", "cock", "shark", "tin", "ant"], ["cock"]])
def test_two_processes_have_the_classes_of_one(names, monkeypatch):
    """Also where there are fewer names than processes."""
    network = clip("ViT")
    monkeypatch.setattr(gathering, "gather_rows", gather_rows)
    expected = by_sentences(network, names)
    for found in in_two(
        lambda rank: zero_shot_classifier(network, names, TEMPLATES, Thread(rank, 2)).numpy()
    ):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_network_in_training_is_asked_as_in_evaluation():
    network = clip("ViT")
    for block in network.text.blocks:
        block.mlp.drop = paddle.nn.Dropout(0.5)
    network.text.norm = paddle.nn.Sequential(network.text.norm, paddle.nn.Dropout(0.5))
    expected = by_sentences(network, ["cock", "tench"])
    network.train()
    found = zero_shot_classifier(network, ["cock", "tench"], TEMPLATES).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert network.training and network.text.training


def test_folders_are_called_by_words(tmp_path):
    for name in ("alarm_clock", "n01440764"):
        (tmp_path / name).mkdir()
        photograph(0, (20, 16)).save(tmp_path / name / "0.png")
    dataset = build_dataset(Config({"name": "ImageFolder", "dataroot": str(tmp_path)}), None)
    evaluator = ZeroShot()
    evaluator.check(dataset)
    assert evaluator.names[0] == "alarm clock"
