"""Retrieval beside CLIP_benchmark as it runs."""

import json

import numpy as np
import pytest
from told_pairs import Told, made_up_pairs, pairs_loader

from passl.evaluation.retrieval import Retrieval


@pytest.mark.reference
@pytest.mark.parametrize("images, width", [(60, 12), (700, 24)])
def test_the_same_recalls(reference, tmp_path, images, width):
    embeddings, captions, texts = made_up_pairs(images, width)
    owners = np.repeat(np.arange(images), [len(own) for own in captions])
    rows = np.array(list(texts.values()))
    np.savez(tmp_path / "pairs.npz", images=embeddings, texts=rows, owners=owners)
    reference("clip_benchmark_recall.py", tmp_path / "pairs.npz", tmp_path / "out.json")
    theirs = json.loads((tmp_path / "out.json").read_text())
    record = Retrieval().evaluate(Told(embeddings, texts), pairs_loader(captions, 64))
    for ours, name in (("image_to_text", "text"), ("text_to_image", "image")):
        for k in (1, 5, 10):
            found = 100 * theirs[f"{name}_retrieval_recall@{k}"]
            assert record[f"{ours}_r{k}"] == pytest.approx(found, abs=1e-4), (ours, k)
