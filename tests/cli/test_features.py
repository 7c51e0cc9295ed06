"""``tools/features.py``: arrays, and a page of nearest neighbours that opens from disk."""

import re
import shutil

import numpy as np
import pytest
import yaml
from helpers import run_here, small_config
from self_supervised import BACKBONES, METHODS, method

from passl.deployment.features import nearest
from passl.weights import write_tensor_file


@pytest.fixture
def pretrained(photos, tmp_path):
    """A config and weights of MoCo; neither has anything to do with the classes."""
    cfg = small_config(photos)
    architecture = {"name": "ResNet", **BACKBONES["ResNet"]}
    cfg["model"] = {"name": "MoCo", "architecture": architecture, **METHODS["MoCo"]}
    path = tmp_path / "moco.yaml"
    path.write_text(yaml.safe_dump(cfg))
    network = method("MoCo")
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_tensor_file(tmp_path / "moco.safetensors", state, {"kind": "weights"})
    return ["-c", path, "--weights", tmp_path / "moco.safetensors"]


@pytest.mark.smoke
@pytest.mark.parametrize("count", [3, 50])
def test_nearest_by_numpy(count):
    """Of equal ones the first; none is its own neighbour, and its double is."""
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    features[7] = 3 * features[20]
    features[21] = features[20]
    queries = np.array([0, 20, 39])
    places, similarity = nearest(features, queries, count)
    units = features.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = np.round(units @ units.T, 6)
    np.fill_diagonal(cosines, -2)
    for row, query in enumerate(queries):
        order = np.argsort(-cosines[query], kind="stable")[: min(count, 39)]
        np.testing.assert_allclose(similarity[row], cosines[query][order], atol=2e-6)
        assert query not in places[row] and places.shape == (3, min(count, 39))
    assert places[1][:2].tolist() == [7, 21]
    places, _ = nearest(np.zeros((3, 2), np.float32), np.arange(3), 2)
    assert places.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_arrays_and_page(pretrained, photos, tmp_path):
    images = tmp_path / "照片"
    shutil.copytree(photos / "val", images)
    double = images / "apple" / "<两个> & more.jpg"
    shutil.copy(next((images / "apple").glob("*.jpg")), double)
    (images / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    code, said, err = run_here("features", *pretrained, images, "--output", out, "--neighbours", 3)
    assert code == 0, err
    with np.load(out / "features.npz") as arrays:
        assert arrays["features"].shape == (14, 8) and arrays["features"].dtype == np.float32
        paths = arrays["paths"].tolist()
    assert str(double) in paths and "broken.jpg" in said + err
    page = (out / "neighbours.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<div class="row">') == 14 and page.count("<figure") == 14 * 4
    assert "&lt;两个&gt; &amp; more.jpg" in page and "<两个>" not in page
    row = next(r for r in page.split('<div class="row">') if "query" in r and "两个" in r[:4000])
    assert re.search(r"<figcaption>1\.000<br>", row)
    assert "照片" in page and "moco.safetensors" in page
    assert len(page) < 400_000


def test_answers_of_a_network_without_classes(pretrained, photos):
    code, said, err = run_here("predict", *pretrained, next((photos / "val").rglob("*.jpg")))
    assert code == 2 and "MoCo tells no classes apart" in err and "features" in err


def test_one_image_has_no_page(pretrained, photos, tmp_path):
    image = next((photos / "val").rglob("*.jpg"))
    code, said, err = run_here("features", *pretrained, image, "--output", tmp_path / "out")
    assert code == 0, err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["features.npz"]
    code, said, err = run_here(
        "features", *pretrained, image, "--output", tmp_path / "out", "--neighbours", "-1"
    )
    assert code == 2 and "--neighbours is at least 0" in err
