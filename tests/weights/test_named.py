"""What a name means: which file, from where, to which place of the cache; and is it still that?"""

import hashlib
import json
import os

import numpy as np
import paddle
import pytest
from publishers import google, own, timm
from weight_server import Answer, Site, without_proxies

import passl
from passl import building
from passl.utils import zoo
from passl.utils.errors import PasslError
from passl.weights import WeightFile, fetching, load_weights
from passl.weights.activations import quick_gelu_of
from passl.weights.formats import safetensors

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "num_blocks": 1,
         "tokens_mlp_dim": 8, "channels_mlp_dim": 16}  # fmt: skip
RELEASES = zoo.releases()
B16 = RELEASES["mlp_mixer_b16_224.goog_in1k"]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a small file by Google, and of one by timm."""
    folder = tmp_path_factory.mktemp("content")
    np.savez(folder / "x.npz", **google(own(**SIZES)))
    safetensors.write(str(folder / "x.safetensors"), timm(own(**SIZES)), {})
    return (folder / "x.npz").read_bytes(), (folder / "x.safetensors").read_bytes()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    without_proxies(monkeypatch)
    monkeypatch.setattr(fetching, "_PAUSE", 0.01)
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache 缓存"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache 缓存" / "weights"


@pytest.fixture
def site(content, cache, monkeypatch):
    """A server with a release of one small network, as two publishers give it, and a page of it."""
    with Site() as site:
        npz, tensors = content
        site.files = {"/g/x.npz": npz, "/t/x.safetensors": tensors}
        files = [
            zoo.ReleasedFile("page.pth", "yitu", f"{site.address}/repository"),
            zoo.ReleasedFile("x.npz", "google", f"{site.address}/g/x.npz"),
            zoo.ReleasedFile("x.safetensors", "timm", f"{site.address}/t/x.safetensors"),
        ]
        put_in_zoo(monkeypatch, files)
        yield site


def put_in_zoo(monkeypatch, files):
    release = zoo.Release(
        "small.own_in1k", "mlp-mixer_b16_224", 1, 7, "nothing", B16.preprocessing, [], [], files
    )
    monkeypatch.setattr(zoo, "releases", lambda: {**RELEASES, "small.own_in1k": release})


def says(given):
    with pytest.raises(PasslError) as error:
        WeightFile(given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.smoke
def test_a_name_is_fetched_once_into_the_cache(site, cache, content):
    with WeightFile("small.own_in1k") as file:
        assert file.path == str(cache / "small.own_in1k" / "x.npz") and file.format == "npz"
        assert (file.source.release, file.source.by) == ("small.own_in1k", "google")
        assert file.source.address == f"{site.address}/g/x.npz"
        assert file.source.sha256 == hashlib.sha256(content[0]).hexdigest()
        first = file.source
    with WeightFile("small.own_in1k") as file:
        assert file.source == first
    assert len(site.requests) == 1
    record = json.loads((cache / "small.own_in1k" / "x.npz.json").read_text())
    assert record["sha256"] == first.sha256 and record["release"] == "small.own_in1k"


def test_a_publisher_is_chosen(site, cache):
    for given in ("small.own_in1k@timm", "small.own_in1k@x.safetensors"):
        with WeightFile(given) as file:
            assert file.path.endswith("x.safetensors") and file.source.by == "timm"
    assert len(site.requests) == 1
    assert "has no file by 'nobody'; there are those by google, timm, yitu" in says(
        "small.own_in1k@nobody"
    )


def test_what_is_there_by_that_name_wins(site, content, tmp_path):
    (tmp_path / "small.own_in1k").write_bytes(content[0])
    with WeightFile("small.own_in1k") as file:
        assert (file.path, file.source) == ("small.own_in1k", None)
    (tmp_path / "small.own_in1k").unlink()
    (tmp_path / "small.own_in1k").mkdir()
    assert "is a folder" in says("small.own_in1k")
    (tmp_path / "small.own_in1k").rmdir()
    (tmp_path / "small.own_in1k").symlink_to("nowhere")
    assert "there is no such file" in says("small.own_in1k")
    assert not site.requests


def test_only_a_page(site, cache, content):
    page = f"{site.address}/repository"
    place = cache / "small.own_in1k" / "page.pth"
    assert says("small.own_in1k@yitu") == (
        "small.own_in1k@yitu: page.pth stands behind a page that only people can use; get it from "
        f"{page} and give its path, or put it at {place}"
    )
    place.parent.mkdir(parents=True)
    place.write_bytes(content[0])
    # Of a release's files the first that can be had, also in this way.
    for given in ("small.own_in1k@yitu", "small.own_in1k"):
        with WeightFile(given) as file:
            assert file.path == str(place)
            assert file.source.sha256 == hashlib.sha256(content[0]).hexdigest()
    assert not site.requests


def test_which_addresses_are_direct():
    def address(url, name="model.safetensors"):
        return zoo.ReleasedFile(name, "x", url).address()

    hugging = "https://huggingface.co/timm/x.y_in1k"
    assert address(hugging) == f"{hugging}/resolve/main/model.safetensors"
    assert address(f"{hugging}/resolve/v1/model.safetensors").endswith("/v1/model.safetensors")
    assert address("https://github.com/a/b/releases/download/v1/x.pth", "x.pth").endswith("x.pth")
    assert address("https://github.com/microsoft/CvT", "CvT-13.pth") is None
    assert address("https://drive.google.com/file/d/1cX6eau", "vip_s7.pth") is None
    without = {
        release.name
        for release in zoo.releases().values()
        if not any(file.address() for file in release.files)
    }
    assert without == {"cvt_13.ms_in1k_384", "cvt_21.ms_in1k_384", "vip_s7.authors_in1k",
                       "vip_m7.authors_in1k", "vip_l7.authors_in1k"}  # fmt: skip
    for release in zoo.releases().values():
        names = [file.name for file in release.files]
        assert len(set(names)) == len(names), "of one name there is one place in the cache"


def test_known_digits(site, cache, content, monkeypatch):
    digest = hashlib.sha256(content[0]).hexdigest()
    for digits, fits in (("0" * 8, False), (digest, True)):
        put_in_zoo(
            monkeypatch,
            [zoo.ReleasedFile("x.npz", "google", f"{site.address}/g/x.npz", digits)],
        )
        if fits:
            WeightFile("small.own_in1k").close()
        else:
            assert digest in says("small.own_in1k") and digits in says("small.own_in1k")
            assert not (cache / "small.own_in1k" / "x.npz").exists()


def test_digits_in_the_name_of_an_address(site, cache, content):
    digest = hashlib.sha256(content[0]).hexdigest()
    good, bad = f"x-{digest[:8]}.pth", "x-0a0b0c0d.pth.tar"
    dated = "x_in1k-20211124.pth"
    site.files.update({f"/{name}": content[0] for name in (good, bad, dated)})
    for name in (good, dated):
        with WeightFile(f"{site.address}/{name}") as file:
            assert os.path.basename(file.path) == name and file.source.sha256 == digest
            assert str(file.source).startswith(f"{site.address}/{name}, SHA-256 ")
    assert "where 0a0b0c0d… is right; it was not kept" in says(f"{site.address}/{bad}")


def test_names_of_addresses(site, cache, content):
    long = "ü" * 200 + ".npz"
    paths = ["/a/x.npz", "/b/x.npz", "/d?id=1", "/d?id=2", "/", "/..%2F..%2Fup.npz", "/%00%0A.npz",
             "/%E7%BD%91%E7%BB%9C.npz"]  # fmt: skip
    site.usual = Answer(body=content[0])
    found = set()
    for path in [*paths, f"/{long}"]:
        with WeightFile(site.address + path) as file:
            found.add(file.path)
            assert cache / "addresses" in type(cache)(file.path).resolve().parents
    assert len(found) == len(paths) + 1, "of different addresses different files"
    names = sorted({os.path.basename(path) for path in found} - {long})
    assert names[:5] == ["__.npz", "d", "up.npz", "weights", "x.npz"] and "网络.npz" in names
    requests = len(site.requests)
    WeightFile(site.address + "/d?id=2").close()
    assert len(site.requests) == requests


def test_a_file_that_is_as_it_was_is_not_read_again_for_its_hash(site, cache, monkeypatch):
    WeightFile("small.own_in1k").close()
    hashed = []
    monkeypatch.setattr("passl.weights.named.sha256_of", hashed.append)
    WeightFile("small.own_in1k").close()
    assert not hashed


def test_a_file_that_was_changed_in_the_cache_is_noticed(site, cache, content):
    WeightFile("small.own_in1k").close()
    place = cache / "small.own_in1k" / "x.npz"
    os.utime(place)  # touched only
    WeightFile("small.own_in1k").close()
    place.write_bytes(content[1])
    words = says("small.own_in1k")
    assert (
        words.startswith(f"{place}: has the SHA-256 ") and "remove it, and it is fetched" in words
    )
    place.unlink()
    WeightFile("small.own_in1k").close()
    assert len(site.requests) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', "\xff"])
def test_a_record_that_cannot_be_read_is_written_anew(site, cache, content, text):
    WeightFile("small.own_in1k").close()
    record = cache / "small.own_in1k" / "x.npz.json"
    record.write_text(text, encoding="latin-1")
    WeightFile("small.own_in1k").close()
    assert json.loads(record.read_text())["sha256"] == hashlib.sha256(content[0]).hexdigest()


def test_a_publisher_who_has_changed_a_file_is_noticed(site, cache, content, messages):
    WeightFile("small.own_in1k").close()
    (cache / "small.own_in1k" / "x.npz").unlink()
    site.files["/g/x.npz"] = content[1]
    WeightFile("small.own_in1k").close()
    assert any("is another file than the one that was fetched before" in m for m in messages())


def test_a_cache_that_cannot_be_written_to(site, cache, content, monkeypatch):
    WeightFile("small.own_in1k").close()
    (cache / "small.own_in1k" / "x.npz.json").unlink()

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("passl.weights.named.replacing", refused)
    with WeightFile("small.own_in1k") as file:
        assert file.source.sha256 == hashlib.sha256(content[0]).hexdigest()
    (cache / "small.own_in1k" / "x.npz").unlink()
    words = says("small.own_in1k")
    assert "Permission denied" in words and str(cache) in words


def test_a_damaged_file_is_not_kept(site, cache, content):
    """By a server that gives a length which is too short, when no hash is known."""
    for name, kept in (("small.own_in1k", content[0]), ("small.own_in1k@timm", content[1])):
        site.answers = [Answer(Content_Length=str(len(kept) - 100))]
        assert "what came is damaged, or is not what its name says" in says(name)
        site.answers = [Answer(body=b"version https://git-lfs.github.com/spec/v1\noid")]
        assert "what came is a Git LFS pointer" in says(name)
        site.answers = [Answer(body=b"")]
        assert "what came is empty" in says(name)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_which_network_of_a_file_is_meant_is_not_asked_of_a_download(site, cache, tmp_path):
    networks = {
        key: {name: paddle.to_tensor(array) for name, array in own(seed=seed, **SIZES).items()}
        for seed, key in enumerate(("teacher", "student"))
    }
    paddle.save(networks, str(tmp_path / "x.pdparams"))
    site.files["/g/x.npz"] = (tmp_path / "x.pdparams").read_bytes()
    assert "has tensors in several places; choose one with --weights-key" in says("small.own_in1k")
    WeightFile("small.own_in1k", "teacher").close()
    assert len(site.requests) == 1


def test_offline(site, cache, content, monkeypatch):
    monkeypatch.setenv("PASSL_OFFLINE", "1")
    place = cache / "small.own_in1k" / "x.npz"
    assert says("small.own_in1k") == (
        "small.own_in1k: is not in the cache, and PASSL_OFFLINE is set; put the file from "
        f"{site.address}/g/x.npz at {place}"
    )
    address = f"{site.address}/t/x.safetensors?token=secret"
    words = says(address)
    assert "PASSL_OFFLINE" in words and "secret" not in words
    assert not site.requests and not cache.exists()
    place.parent.mkdir(parents=True)
    place.write_bytes(content[0])
    WeightFile("small.own_in1k").close()
    monkeypatch.setenv("PASSL_OFFLINE", "0")
    site.usual = Answer(body=content[1])
    WeightFile(address).close()
    assert len(site.requests) == 1
    monkeypatch.setenv("PASSL_OFFLINE", "true")
    WeightFile(address).close()
    assert len(site.requests) == 1


def test_a_mirror(site, cache, content, monkeypatch):
    with Site() as mirror:
        monkeypatch.setenv("PASSL_WEIGHTS_MIRROR", f"{mirror.address}/passl weights/")
        words = says("small.own_in1k")
        assert "404" in words and f"{site.address}/g/x.npz" in words and "MIRROR" in words
        mirror.files["/passl%20weights/small.own_in1k/x.npz"] = content[0]
        mirror.files["/passl%20weights/small.own_in1k/page.pth"] = content[0]
        with WeightFile("small.own_in1k") as file:
            assert file.path == str(cache / "small.own_in1k" / "x.npz")
            assert file.source.address == f"{site.address}/g/x.npz", "what it is a copy of"
        WeightFile("small.own_in1k@yitu").close()  # behind a page otherwise
        assert not site.requests
        requests = len(mirror.requests)
        WeightFile(f"{site.address}/t/x.safetensors").close()  # an address is what it says
        assert len(mirror.requests) == requests
    monkeypatch.setenv("PASSL_WEIGHTS_MIRROR", "/a/folder")
    assert "PASSL_WEIGHTS_MIRROR=/a/folder: is the address of a server" in says(
        "small.own_in1k@timm"
    )


def test_another_endpoint_for_hugging_face(site, cache, content, monkeypatch):
    url = "https://huggingface.co/timm/small.own_in1k"
    put_in_zoo(monkeypatch, [zoo.ReleasedFile("model.safetensors", "timm", url)])
    monkeypatch.setenv("HF_ENDPOINT", f"{site.address}/")
    site.files["/timm/small.own_in1k/resolve/main/model.safetensors"] = content[1]
    with WeightFile("small.own_in1k") as file:
        assert file.source.address == f"{url}/resolve/main/model.safetensors"


def test_without_a_place_for_a_cache(site, monkeypatch):
    for variable in ("PASSL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # neither HOME nor an account
    assert "set PASSL_CACHE to a folder" in says("small.own_in1k")


def test_without_a_network_the_line_says_where_to_put_the_file(site, cache):
    site.__exit__()
    assert says("small.own_in1k") == (
        f"{site.address}/g/x.npz: cannot be reached (Connection refused); set HTTPS_PROXY or "
        f"PASSL_WEIGHTS_MIRROR, or put the file from {site.address}/g/x.npz at "
        f"{cache / 'small.own_in1k' / 'x.npz'}"
    )


def test_names_that_are_nearly_right(cache):
    assert "did you mean 'mlp_mixer_b16_224.goog_in1k'?" in says("mlp_mixer_b16_224.goog_in1")
    words = says("mlp_mixer_s32_224")
    assert "no release but a network, whose releases are mlp_mixer_s32_224.goog_gsam_in1k" in words
    assert says("output/best.safetensors") == "output/best.safetensors: there is no such file"


# ------------------------------------------------ what is made of it


def test_a_report_says_where_weights_come_from(site, cache, content, messages):
    model = passl.create_model("MlpMixer", num_classes=7, **SIZES)
    report = load_weights(model, "small.own_in1k")
    digest = hashlib.sha256(content[0]).hexdigest()
    words = f"small.own_in1k (google), SHA-256 {digest}"
    assert str(report.source) == words
    assert report.whence == f"{cache / 'small.own_in1k' / 'x.npz'}: {words}"
    assert messages()[-1].endswith(f"google names), {words}")
    same = passl.create_model("MlpMixer", pretrained="small.own_in1k@timm", **SIZES)
    images = paddle.randn([1, 3, 16, 16])
    np.testing.assert_array_equal(model(images).numpy(), same(images).numpy())


@pytest.mark.parametrize(
    "name, pretrained, has",
    [
        ("mlp_mixer_s8_224.goog_gsam_in1k", None, lambda b: b.stem.proj.weight.shape[-1] == 8),
        ("vit_b16_224.miil_in21k_ft_in1k", False, lambda b: b.blocks[0].attn.qkv.bias is None),
        ("vit_b16_224.miil_in21k_ft_in1k@timm", None, lambda b: b.blocks[0].attn.qkv.bias is None),
        ("vit_b16_224", None, lambda b: b.blocks[0].attn.qkv.bias is not None),
    ],
)
def test_a_release_is_the_network_that_its_config_makes(name, pretrained, has):
    with paddle.LazyGuard():
        assert has(passl.create_model(name, pretrained=pretrained).backbone)


def test_the_arguments_of_a_release_serve_its_name_as_weights_too(cache):
    """And a user's own count more."""
    release = "vit_b16_224.miil_in21k_ft_in1k"
    assert building._resolve("vit_b16_224", release) == (
        "vit_b16_224", release, {"qkv_bias": False}
    )  # fmt: skip
    assert building._resolve("vit_b32_224", release)[2] == {}
    assert building._resolve("vit_b16_224", True) == (
        "vit_b16_224", "vit_b16_224.augreg_in21k_ft_in1k", {}
    )  # fmt: skip
    assert building._resolve(f"{release}@timm", True) == (
        "vit_b16_224", f"{release}@timm", {"qkv_bias": False}
    )  # fmt: skip
    with paddle.LazyGuard():
        model = passl.create_model(release, qkv_bias=True)
    assert model.backbone.blocks[0].attn.qkv.bias is not None


def test_clip_knows_its_gelu_by_the_release(cache, content):
    """Of files that tell it neither by name nor by hash."""
    name = "clip_vit_h14_224.metaclip"
    release = zoo.releases()[name]
    place = cache / name / release.files[0].name
    place.parent.mkdir(parents=True)
    place.write_bytes(content[1])
    with WeightFile(name) as file:
        assert quick_gelu_of(file) == ({"backbone": True, "text": True}, f"as {name}")
