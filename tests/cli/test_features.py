"""``tools/features.py``: arrays, and a page of nearest neighbours that opens from disk."""

import re
import shutil

import numpy as np
import paddle
import pytest
import yaml
from helpers import run_here, small_config
from self_supervised import BACKBONES, METHODS, method

from passl.datasets.sources.paths import ImagePaths
from passl.deployment import features as features_of
from passl.deployment import neighbours_page
from passl.deployment.features import nearest
from passl.deployment.neighbours_page import write_neighbours
from passl.modeling.architectures import ARCHITECTURES, Architecture
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
        np.testing.assert_allclose(similarity[row], cosines[query][order], atol=1e-6)
        assert query not in places[row] and places.shape == (3, min(count, 39))
    assert places[1][:2].tolist() == [7, 21]
    places, _ = nearest(np.zeros((3, 2), np.float32), np.arange(3), 2)
    assert places.tolist() == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize("queries, images", [(1, 3), (5, 7), (64, 4096)])
def test_equal_images_are_equally_near(queries, images, monkeypatch):
    """Whatever is compared at a time: products of matrices round by where a row stands."""
    monkeypatch.setattr(features_of, "_QUERIES", queries)
    monkeypatch.setattr(features_of, "_IMAGES", images)
    rng = np.random.default_rng(1)
    kinds = rng.normal(size=(3, 301)).astype(np.float32)
    rows = kinds[np.arange(33) % 3] * rng.integers(1, 9, (33, 1)).astype(np.float32) / 3
    places, similarity = nearest(rows, np.arange(33), 10)
    for query in range(33):
        assert places[query].tolist() == [i for i in range(query % 3, 33, 3) if i != query]
    assert (similarity == 1).all()


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
        assert str(arrays["config"]) == str(pretrained[1])
        assert str(arrays["weights"]) == str(pretrained[3])
        assert str(arrays["view"]) == (
            "ResizeCenterCrop (crop_ratio 0.875, size 16), then Normalize (mean [0.5, 0.5, 0.5], "
            "std [0.5, 0.5, 0.5])"
        )
    assert str(double) in paths and "broken.jpg" in said + err
    size = (out / "neighbours.html").stat().st_size / 1e6
    assert f"neighbours.html: open it in a browser ({size:.1f} MB)" in said + err
    page = (out / "neighbours.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<div class="row">') == 14 and page.count("<figure") == 14 * 4
    assert "&lt;两个&gt; &amp; more.jpg" in page and "<两个>" not in page
    row = next(r for r in page.split('<div class="row">') if "query" in r and "两个" in r[:4000])
    assert re.search(r"<figcaption>1\.000<br>", row)
    assert "照片" in page and "moco.safetensors" in page and "view: ResizeCenterCrop" in page
    assert "<br>apple/<br>&lt;两个&gt; &amp; more.jpg</figcaption>" in page
    assert "14 images; right of each" in page and len(page) < 400_000
    # Every query first in its row, and what is beside it is not itself.
    for row in page.split('<div class="row">')[1:]:
        titles = re.findall(r'<figure class="(\w*)" title="([^"]*)"', row)
        assert [kind for kind, _ in titles] == ["query", "", "", ""]
        assert len({title for _, title in titles}) == 4


def test_many_images_are_sampled(tmp_path, photos):
    """The page stays some megabytes; the last image is on it, and neighbours are of all."""
    image = next((photos / "val").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    dataset = ImagePaths([str(image)] * 200, ())
    shown = {}
    for count in (8, 99):
        write_neighbours(tmp_path / "x.html", dataset, range(200), rows, count, {"config": "<c>"})
        page = (tmp_path / "x.html").read_text()
        shown[count] = page.count('class="query"')
        assert page.count("<figure") == shown[count] * (1 + count) <= 1000
        assert f"{shown[count]} of 200 images" in page and "config: &lt;c&gt;" in page
        assert "/<br>" not in page, "of one folder its name says nothing"
    assert shown == {8: 60, 99: 10}


def test_the_sample_is_taken_evenly(tmp_path, photos, monkeypatch):
    """From the first to the last, not of the class that comes first."""
    monkeypatch.setattr(neighbours_page, "_ROWS", 3)
    images = sorted(map(str, (photos / "val").rglob("*.jpg")))
    rows = np.random.default_rng(0).normal(size=(13, 4)).astype(np.float32)
    write_neighbours(tmp_path / "x.html", ImagePaths(images, ()), range(13), rows, 2, {})
    page = (tmp_path / "x.html").read_text()
    assert re.findall(r'class="query" title="([^"]*)"', page) == [images[i] for i in (0, 6, 12)]


@pytest.mark.smoke
def test_similarities_as_text(tmp_path, photos):
    """A number that rounds to zero has no sign."""
    images = sorted(map(str, (photos / "val").rglob("*.jpg")))[:3]
    rows = np.array([[1, 0], [-1e-4, 1], [-1, 0]], np.float32)
    facts = {}
    write_neighbours(tmp_path / "x.html", ImagePaths(images, ()), [0, 1, 2], rows, 2, facts)
    told = re.findall(r"<figcaption>(-?[\d.]+)<br>", (tmp_path / "x.html").read_text())
    assert told == ["0.000", "-1.000", "0.000", "0.000", "0.000", "-1.000"]


def test_a_backbone_is_all_that_features_need(pretrained, photos, tmp_path):
    """Of any network: a classifier's config takes the file of a method, and the other way."""
    cfg = yaml.safe_load(pretrained[1].read_text())
    architecture = cfg["model"]["architecture"]
    cfg["model"] = {
        "architecture": architecture, "head": {"name": "ClassificationHead", "num_classes": 3}
    }  # fmt: skip
    (tmp_path / "classifier.yaml").write_text(yaml.safe_dump(cfg))
    cfg["model"] = {"name": "MoCo", "architecture": architecture, **METHODS["MoCo"]}
    cfg["model"]["probe"] = {"num_classes": 3}
    (tmp_path / "probed.yaml").write_text(yaml.safe_dump(cfg))
    found = {}
    for name, given in (
        ("method", pretrained),
        ("classifier", ["-c", tmp_path / "classifier.yaml", *pretrained[2:]]),
        ("probed", ["-c", tmp_path / "probed.yaml", *pretrained[2:]]),
    ):
        out = tmp_path / name
        more = ["--output", out, "--neighbours", 0, "--batch-size", 3]
        code, said, err = run_here("features", *given, photos / "val", *more)
        assert code == 0, err
        with np.load(out / "features.npz") as arrays:
            found[name] = arrays["features"]
        assert [path.name for path in out.iterdir()] == ["features.npz"]
    for rows in found.values():
        np.testing.assert_array_equal(rows, found["method"])
    assert np.abs(found["method"]).max() > 0


class Headless(Architecture):
    """Has no part called ``backbone``."""

    def __init__(self):
        super().__init__()
        self.student = paddle.nn.Linear(2, 2)


def test_a_network_without_a_backbone(pretrained, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES._factories, "Headless", Headless)
    cfg = yaml.safe_load(pretrained[1].read_text())
    cfg["model"] = {"name": "Headless"}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(cfg))
    given = ["-c", tmp_path / "x.yaml", *pretrained[2:], photos / "val", "--output", tmp_path / "o"]
    code, said, err = run_here("features", *given)
    assert code == 2 and "Headless has no part called 'backbone'" in err
    assert not (tmp_path / "o").exists()


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
    assert code == 2 and "--neighbours lies between 0 and 100" in err
    code, said, err = run_here("features", *pretrained, image, "--output", tmp_path / "out")
    assert code == 0 and "one image has no neighbours: no page is written" in said + err
