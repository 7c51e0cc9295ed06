"""Weights by the name of a release or by address, in every command that takes weights."""

import hashlib
import json

import numpy as np
import paddle
import pytest
from helpers import NETWORK, run_here, run_tool
from publishers import google, own
from weight_server import Site, without_proxies

import passl
from passl.engine.training_run import TrainingRun
from passl.utils import zoo
from passl.weights import WeightFile, fetching, write_tensor_file

RELEASES = zoo.releases()
# The smallest of the zoo without a known hash.
T2T = "t2t_vit_7_224.authors_in1k"
T2T_FILE = RELEASES[T2T].files[0].name


@pytest.fixture
def cache(monkeypatch, tmp_path):
    without_proxies(monkeypatch)
    monkeypatch.setattr(fetching, "_PAUSE", 0.01)
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def mirror(cache, monkeypatch):
    with Site() as mirror:
        monkeypatch.setenv("PASSL_WEIGHTS_MIRROR", mirror.address)
        yield mirror


@pytest.fixture
def released(mirror, tmp_path, monkeypatch):
    """A release that fits the network of small_config, and its content, on the mirror."""
    np.savez(tmp_path / "of_google.npz", **google(own(classes=3, **NETWORK)))
    content = (tmp_path / "of_google.npz").read_bytes()
    mirror.files["/small.own_in1k/x.npz"] = content
    release = zoo.Release(
        "small.own_in1k", "mlp-mixer_b16_224", 1, 3, "nothing",
        RELEASES["resmlp_12_224.fb_in1k"].preprocessing, [], [],
        [zoo.ReleasedFile("x.npz", "google", "https://weights.example/x.npz")],
    )  # fmt: skip
    monkeypatch.setattr(zoo, "releases", lambda: {**RELEASES, release.name: release})
    return content


@pytest.fixture(scope="module")
def t2t(tmp_path_factory):
    """A file for the smallest release's network, with numbers of our own."""
    path = tmp_path_factory.mktemp("t2t") / "weights.safetensors"
    paddle.seed(3)
    model = passl.create_model("t2t_vit_7_224")
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_tensor_file(path, arrays, {"kind": "weights"})
    return path, model


def test_a_real_name_from_a_mirror_in_commands_and_in_python(t2t, mirror, cache, tmp_path,
                                                             monkeypatch):  # fmt: skip
    path, model = t2t
    mirror.files[f"/{T2T}/{T2T_FILE}"] = path.read_bytes()
    argv = ["-c", "t2t_vit_7_224", "--synthetic", "4", "--device", "cpu",
            "-o", "dataloader.val.loader.num_workers=0"]  # fmt: skip
    loss = {}
    for given, run in ((T2T, run_tool), (path, run_here)):
        out = tmp_path / "result.json"
        code, said, err = run("eval", *argv, "--weights", given, "--json", out)
        assert code == 0, err
        loss[given] = json.loads(out.read_text())["loss"]
    assert loss[T2T] == loss[path] and len(mirror.requests) == 1
    # From here on without a network.
    monkeypatch.setenv("PASSL_OFFLINE", "1")
    images = paddle.randn([1, 3, 224, 224])
    expected = model(images).numpy()
    for name, pretrained in (
        ("t2t_vit_7_224", True), (T2T, True), ("t2t_vit_7_224", T2T), (f"{T2T}@yitu", True)
    ):  # fmt: skip
        found = passl.create_model(name, pretrained=pretrained)
        np.testing.assert_array_equal(found(images).numpy(), expected)
    assert len(mirror.requests) == 1
    code, _, err = run_here("eval", *argv, "--weights", "t2t_vit_10_224.authors_in1k")
    assert code == 2 and err.startswith("error: t2t_vit_10_224.authors_in1k: is not in the cache")
    assert err.count("\n") == 1


def test_every_command_that_takes_weights(released, mirror, cache, config_file, photos, tmp_path):
    config, digest = config_file(), hashlib.sha256(released).hexdigest()
    whence = f"small.own_in1k (google), SHA-256 {digest}"
    image = next((photos / "val").rglob("*.jpg"))
    common = ["-c", config, "--weights", "small.own_in1k"]
    for tool, *argv in (
        ["eval", *common, "--report", tmp_path / "report"],
        ["predict", *common, image],
        ["features", *common, image, "--output", tmp_path / "features"],
        ["export", *common, "--format", "paddle", "--output", tmp_path / "deploy"],
        ["visualize", *common, "--output", tmp_path / "pictures"],
        ["convert", "small.own_in1k", tmp_path / "converted.safetensors"],
        ["convert", "small.own_in1k", tmp_path / "mean.npz", "--mean", "small.own_in1k@google"],
        ["train", "-c", config, "--pretrained", "small.own_in1k", "--dry-run",
         "--output-dir", tmp_path / "dry"],
    ):  # fmt: skip
        code, out, err = run_here(tool, *argv)
        assert code == 0, (tool, err)
        assert tool == "convert" or whence in out + err, tool
    assert len(mirror.requests) == 1
    # What is written says more than a place in a cache.
    assert whence in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert whence in str(np.load(tmp_path / "features" / "features.npz")["weights"])
    assert whence in json.loads((tmp_path / "deploy" / "preprocessing.json").read_text())["weights"]
    ours = WeightFile(tmp_path / "converted.safetensors").read("head.fc.bias")
    np.testing.assert_array_equal(ours, own(classes=3, **NETWORK)["head.fc.bias"])


def test_the_view_is_compared_with_that_of_the_release_that_was_named(released, config_file,
                                                                      monkeypatch):  # fmt: skip
    """Other releases have files of the same name."""
    other = zoo.Release(
        **{**vars(RELEASES["mlp_mixer_b16_224.goog_in1k"]), "name": "a.other_in1k",
           "files": zoo.releases()["small.own_in1k"].files}
    )  # fmt: skip
    both = {"a.other_in1k": other, **zoo.releases()}
    monkeypatch.setattr(zoo, "releases", lambda: both)
    code, out, err = run_here("eval", "-c", config_file(), "--weights", "small.own_in1k")
    assert code == 0 and "take them with -o preprocessing=small.own_in1k" in out, out + err


def test_an_address(released, mirror, config_file):
    address = f"{mirror.address}/small.own_in1k/x.npz?token=secret"
    mirror.files["/small.own_in1k/x.npz?token=secret"] = released
    for _ in range(2):
        code, out, err = run_here("eval", "-c", config_file(), "--weights", address)
        assert code == 0 and f"{mirror.address}/small.own_in1k/x.npz, SHA-256" in out, err
    assert len(mirror.requests) == 1 and "secret" not in out
    code, out, err = run_here("eval", "-c", config_file(), "--weights", f"{mirror.address}/none")
    assert code == 2 and "404 Not Found" in err and err.count("\n") == 1


def test_a_run_records_what_it_began_from(released, mirror, tmp_path, config_file, monkeypatch):
    """And goes on without it."""
    out = tmp_path / "run"
    argv = ["-c", config_file(epochs=2), "--output-dir", out, "--pretrained", "small.own_in1k",
            "--resume", "auto"]  # fmt: skip
    whence = {"release": "small.own_in1k", "by": "google", "address": "https://weights.example/x.npz",
              "sha256": hashlib.sha256(released).hexdigest()}  # fmt: skip

    class Stopped(Exception):
        pass

    save = TrainingRun.save

    def stop(run, *arguments, **options):
        save(run, *arguments, **options)
        run.finish_saving(wait=True)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", stop)
        with pytest.raises(Stopped):
            run_here("train", *argv)
    latest = out / "checkpoints" / "latest.safetensors"
    with WeightFile(latest) as file:
        assert file.metadata["pretrained"] == "small.own_in1k"
        assert file.metadata["pretrained_source"] == whence
        assert file.metadata["progress"]["step"] < 14
    assert whence["sha256"] in (out / "train.log").read_text()
    # Somewhere else, where nothing was fetched and nothing can be.
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PASSL_OFFLINE", "1")
    code, said, err = run_here("train", *argv)
    assert code == 0, err
    with WeightFile(latest) as file:
        assert file.metadata["pretrained_source"] == whence
        assert file.metadata["progress"]["step"] == 14
    code, said, err = run_here("convert", latest, tmp_path / "converted.safetensors")
    assert f"from small.own_in1k (SHA-256 {whence['sha256'][:12]}…)" in said, err
    assert len(mirror.requests) == 1 and not (tmp_path / "empty" / "weights").exists()


def test_fetching_ahead(released, mirror, cache):
    place = cache / "small.own_in1k" / "x.npz"
    code, out, err = run_here("models", "--fetch", "small.own_in1k", "small.own_in1")
    assert code == 2 and "did you mean 'small.own_in1k'" in err and not mirror.requests
    for _ in range(2):
        code, out, err = run_here("models", "--fetch", "small.own_in1k@google", "small.own_in1k")
        assert (code, out) == (0, f"{place}\n{place}\n"), err
    assert place.read_bytes() == released and len(mirror.requests) == 1
    code, out, err = run_here("models", "--fetch")
    assert code == 2 and "--fetch takes names of releases" in err
