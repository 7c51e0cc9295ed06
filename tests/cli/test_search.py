"""``tools/search.py``: what is found, what is kept for the next time, and the page of answers."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from clip import TEXT, TOWERS, clip
from colours import Colours, colour_run, paint, write_weights
from helpers import run_here, small_config
from PIL import Image

from passl.datasets.sources.paths import ImagePaths
from passl.deployment import kept_embeddings, search
from passl.deployment.features import most_similar
from passl.weights import write_tensor_file


@pytest.fixture
def run(photos, tmp_path, monkeypatch):
    """Searches the folder of pictures.

    ``run("red", …)`` returns exit code, output, errors, and how many images were embedded.
    """
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    # So that what was just written counts as such at once.
    monkeypatch.setattr(kept_embeddings, "_TOO_RECENT_NS", -(10**18))
    named = colour_run(tmp_path, photos, monkeypatch)

    def search(*arguments, folder=tmp_path / "图片"):
        Colours.embedded = 0
        code, out, err = run_here(
            "search", *named, "--in", folder, "--output", tmp_path / "out", *arguments
        )
        return code, out, err, Colours.embedded

    return search


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "图片"
    for name, colour in {
        "red.bmp": (250, 0, 0),
        "自然/草 <green> & more.png": (0, 240, 10),
        "自然/blue.png": (0, 0, 255),
        "rose.png": (255, 120, 120),
    }.items():
        paint(folder / name, colour)
    return folder


def test_words_find_images(run, pictures, tmp_path):
    found = tmp_path / "found.json"
    code, out, err, embedded = run("red", "一片绿", "--top", 2, "--json", found)
    assert code == 0 and embedded == 4, err
    assert out == (
        f"red\n   1.0000  {pictures}/red.bmp\n   0.8325  {pictures}/rose.png\n"
        f"一片绿\n   0.9991  {pictures}/自然/草 <green> & more.png\n"
        f"   0.3918  {pictures}/rose.png\n"
    )
    answers = json.loads(found.read_text(encoding="utf-8"))
    assert [(a["words"], a["like"]) for a in answers] == [("red", None), ("一片绿", None)]
    rose = np.array([255, 120, 120])
    assert answers[0]["answers"][1]["path"] == str(pictures / "rose.png")
    assert answers[0]["answers"][1]["similarity"] == pytest.approx(
        rose[0] / np.linalg.norm(rose), abs=1e-6
    )
    assert "4 images: 0 known from before, 4 embedded" in err and "answers.html: open it" in err


def test_an_image_finds_those_like_it_and_not_itself(run, pictures, tmp_path):
    other = paint(tmp_path / "other.png", (200, 10, 10))
    code, out, err, embedded = run("--like", pictures / "red.bmp", "--like", other, "--top", 9)
    assert code == 0 and embedded == 4 + 2, err
    first, second = out.split("like ")[1:]
    assert [Path(line[11:]).name for line in first.splitlines()[1:]] == [
        "rose.png", "blue.png", "草 <green> & more.png"
    ]  # fmt: skip
    assert len(second.splitlines()) == 1 + 4
    code, out, err, embedded = run("red", "--like", pictures / "red.bmp", "--top", 9)
    words, like = out.split("like ")
    assert "/red.bmp" in words and "/red.bmp" not in like.partition("\n")[2]
    # By another path it is the same file, and a copy is another one.
    (tmp_path / "link.png").symlink_to(pictures / "red.bmp")
    shutil.copy(pictures / "red.bmp", pictures / "copy.bmp")
    code, out, err, embedded = run("--like", tmp_path / "link.png", "--top", 9)
    assert "/red.bmp" not in out and f"   1.0000  {pictures}/copy.bmp" in out
    (tmp_path / "folder").symlink_to(pictures)
    given = ["--like", pictures / "red.bmp", "--top", 9]
    code, out, err, embedded = run(*given, folder=tmp_path / "folder")
    assert code == 0 and "/copy.bmp" in out and "folder/red.bmp" not in out


def test_a_second_search_embeds_nothing(run, pictures):
    first, second = run("red"), run("red")
    assert first[3] == 4 and second[3] == 0 and first[1] == second[1]
    assert "4 images: 4 known from before, 0 embedded" in second[2]


def change(pictures, what):
    red = pictures / "red.bmp"
    if what == "new":
        paint(pictures / "crimson.png", (200, 0, 0))
    elif what == "changed":
        paint(red, (0, 0, 250), (24, 21))
    elif what == "changed-alike":
        data, state = red.read_bytes(), red.stat()
        paint(red, (0, 250, 0))
        assert red.stat().st_size == state.st_size and red.read_bytes() != data
        os.utime(red, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif what == "touched":
        os.utime(red, (1, 1))
    elif what == "renamed":
        red.rename(pictures / "自然" / "scarlet.bmp")
    elif what == "copied":
        shutil.copy(red, pictures / "copy.bmp")
    elif what == "exchanged":
        green = pictures / "rose.png"
        red.rename(pictures / "x.bmp"), green.rename(red), (pictures / "x.bmp").rename(green)
    elif what == "removed":
        red.unlink()


@pytest.mark.parametrize(
    "what, embedded, answers",
    [
        ("new", 1, ["crimson.png", "red.bmp"]),
        ("changed", 1, ["rose.png"]),
        ("changed-alike", 1, ["rose.png"]),
        ("touched", 0, ["red.bmp", "rose.png"]),
        ("renamed", 0, ["scarlet.bmp", "rose.png"]),
        ("copied", 0, ["copy.bmp", "red.bmp"]),
        ("exchanged", 0, ["rose.png", "red.bmp"]),
        ("removed", 0, ["rose.png"]),
    ],
)
def test_what_is_kept_is_never_stale(run, pictures, what, embedded, answers):
    """And nothing is embedded twice; the third time there is nothing left to do or to write."""
    run("red")
    time.sleep(0.02)  # times have the step of the kernel's clock
    change(pictures, what)
    again = run("red")
    assert again[0] == 0 and again[3] == embedded, again[2]
    names = [Path(line[11:]).name for line in again[1].splitlines()[1:]]
    assert names[: len(answers)] == answers
    (kept,) = (pictures.parent / "cache" / "search").iterdir()
    written = kept.stat().st_ino
    with np.load(kept) as file:
        images = [path for path in pictures.rglob("*.*") if path.is_file()]
        assert len(file["rows"]) == len(images), "of those that are gone nothing stays"
    once_more = run("red")
    assert once_more[3] == 0 and once_more[1] == again[1]
    assert kept.stat().st_ino == written, "files are written beside, and take the place"


def test_contents_are_read_of_files_of_a_known_size_alone(run, pictures, monkeypatch):
    run("red")
    paint(pictures / "new.png", (1, 2, 3), (300, 300))
    monkeypatch.setattr(kept_embeddings, "sha256_of", lambda path: 1 / 0)
    assert run("red")[3] == 1


def test_an_unreadable_image_makes_the_others_no_less_known(run, pictures, monkeypatch):
    (pictures / "a.png").write_bytes(b"no image")
    (pictures / "n.png").write_bytes(b"none either")
    first = run("red")
    assert first[0] == 0 and first[3] == 4
    monkeypatch.setattr(kept_embeddings, "sha256_of", lambda path: 1 / 0)
    again = run("red")
    assert again[:2] == first[:2] and again[3] == 0


def test_what_changed_just_now_is_known_by_its_content_alone(run, pictures, monkeypatch):
    """The clock of a file system is too coarse to tell a change from a second one at once."""
    monkeypatch.setattr(kept_embeddings, "_TOO_RECENT_NS", 10**12)
    read, sha256_of = [], kept_embeddings.sha256_of
    monkeypatch.setattr(
        kept_embeddings, "sha256_of", lambda path: read.append(path) or sha256_of(path)
    )
    run("red")
    state = os.stat
    frozen = {p: os.stat(p) for p in map(str, pictures.rglob("*.*"))}
    monkeypatch.setattr(
        kept_embeddings.os, "stat", lambda p, **k: frozen.get(str(p)) or state(p, **k)
    )
    paint(pictures / "red.bmp", (0, 250, 0))
    found = run("red")
    assert found[3] == 1 and "red.bmp" not in found[1].splitlines()[1]
    assert len(read) == 4
    monkeypatch.setattr(kept_embeddings, "_TOO_RECENT_NS", -(10**18))
    run("red"), read.clear(), run("red")
    assert read == [], "now it is old enough to go by"


@pytest.mark.parametrize("what", ["weights", "model", "view"])
def test_another_network_or_view_embeds_anew(run, pictures, tmp_path, what):
    run("red")
    path = tmp_path / "colours.yaml"
    cfg = yaml.safe_load(path.read_text(encoding="utf-8"))
    if what == "weights":
        write_weights(tmp_path, np.eye(3)[[1, 0, 2]])
    elif what == "model":
        cfg["model"]["strength"] = 2.0
    else:
        cfg["dataloader"]["val"]["dataset"]["transforms"][0]["size"] = 8
    path.write_text(yaml.safe_dump(cfg), encoding="utf-8")
    assert run("red")[3] == 4
    assert len(list((tmp_path / "cache" / "search").iterdir())) == 2
    write_weights(tmp_path, np.eye(3))
    if what == "weights":
        assert run("red")[3] == 0, "both are kept"


def test_a_damaged_file_is_made_anew(run, pictures, tmp_path):
    whole = run("red")
    (kept,) = (tmp_path / "cache" / "search").iterdir()
    data = kept.read_bytes()
    for damaged in (data[:300], b"", data[:-20], b"x" * 999):
        kept.write_bytes(damaged)
        again = run("red")
        assert again[1] == whole[1] and again[3] == 4
        assert "is damaged, so that it is made anew" in again[2]
    assert run("red")[3] == 0
    # Of another sort, which its name does not tell.
    with np.load(kept) as file:
        arrays = dict(file)
    facts = json.loads(arrays["facts"].tobytes())
    older = json.dumps({**facts, "version": facts["version"] - 1}).encode()
    for name, value in (
        ("facts", np.frombuffer(older, np.uint8)),
        ("facts", np.frombuffer(b'{"version": 1, "key": "x"}', np.uint8)),
        ("rows", np.full_like(arrays["rows"], np.nan)),
        ("rows", arrays["rows"][:3]),
        ("digests", arrays["digests"][:, :31]),
        ("stamps", arrays["stamps"].astype(np.int32)),
    ):
        np.savez(kept, **{**arrays, name: value})
        assert run("red")[3] == 4, name


def test_what_has_not_been_used_for_longest_is_forgotten(run, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_embeddings, "_MOST", 2)
    for number in (1, 2):
        write_weights(tmp_path, number * np.eye(3))
        run("red")
    kept = sorted((tmp_path / "cache" / "search").iterdir(), key=lambda p: p.stat().st_mtime)
    for age, path in zip((200, 100), kept):
        os.utime(path, (time.time() - age,) * 2)
    write_weights(tmp_path, np.eye(3))
    assert run("red")[3] == 0, "the older one, which is the one in use now"
    write_weights(tmp_path, 3 * np.eye(3))
    run("red")
    write_weights(tmp_path, np.eye(3))
    assert run("red")[3] == 0 and kept[0].exists() and not kept[1].exists()
    assert len(list(kept[0].parent.iterdir())) == 2


def test_without_a_place_to_keep_it(run, pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        code, out, err, embedded = run("red")
        assert code == 0 and embedded == 4 and "cannot be written (Not a directory)" in err
        assert err.count("cannot be written") == 1 and "kept in" not in err
    monkeypatch.setattr(kept_embeddings, "cache_file", lambda *_: None)
    code, out, err, embedded = run("red")
    assert code == 0 and embedded == 4 and "kept in" not in err and "cannot" not in err


def test_what_was_embedded_before_an_interruption_is_kept(run, pictures, monkeypatch):
    embed = Colours.embed_images

    def interrupted(self, images):
        if Colours.embedded == 2:
            raise KeyboardInterrupt
        return embed(self, images)

    monkeypatch.setattr(Colours, "embed_images", interrupted)
    assert run("red", "--batch-size", 2)[0] == 130
    monkeypatch.setattr(Colours, "embed_images", embed)
    assert run("red", "--batch-size", 2)[3] == 2


def test_long_work_is_kept_meanwhile(run, pictures, monkeypatch):
    saved, save = [], kept_embeddings.KeptEmbeddings.save
    monkeypatch.setattr(
        kept_embeddings.KeptEmbeddings, "save", lambda self: saved.append(1) or save(self)
    )
    run("red", "--batch-size", 1)
    assert len(saved) == 1
    (kept,) = (pictures.parent / "cache" / "search").iterdir()
    kept.unlink(), saved.clear()
    monkeypatch.setattr(search, "_SAVED_EVERY", -1)
    run("red", "--batch-size", 1)
    assert len(saved) == 5 and run("red")[3] == 0


def test_images_that_cannot_be_read(run, pictures):
    """They are passed over each time, and no search fails for them but one of nothing else."""
    (pictures / "broken.png").write_bytes(b"no image")
    first, second = run("red"), run("red")
    for code, out, err, _ in (first, second):
        assert code == 0 and "skipped an image" in err and "broken.png" not in out
    assert (first[3], second[3]) == (4, 0) and first[1] == second[1]
    for path in pictures.rglob("*.*"):
        path.write_bytes(b"no image")
    code, out, err, _ = run("red")
    assert code == 2 and "none of the 5 images can be read" in err


def test_with_workers(run, tmp_path):
    """The digests come with the images that were decoded, from whichever process."""
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
        (tmp_path / "many").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "many" / f"{i}.png")
    first = run("red", "--batch-size", 3, folder=tmp_path / "many")
    assert first[0] == 0 and first[3] == 40, first[2]
    for path in (tmp_path / "many").iterdir():
        path.rename(path.with_name(f"renamed {path.name}"))
    again = run("red", folder=tmp_path / "many")
    assert again[3] == 0 and again[1].replace("renamed ", "") == first[1]


def test_folders_within_one_another_count_once(run, pictures, tmp_path):
    os.symlink(pictures, tmp_path / "link")
    code, out, err, embedded = run(
        "blue", "--top", 99, "--in", pictures / "自然", "--in", tmp_path / "link",
        "--in", paint(tmp_path / "more" / "x.png", (3, 0, 0)).parent,
    )  # fmt: skip
    assert code == 0 and embedded == 5 and len(out.splitlines()) == 6
    assert len(list((tmp_path / "cache" / "search").iterdir())) == 2
    beside = paint(tmp_path / "图片 2" / "y.png", (0, 0, 9)).parent
    code, out, err, embedded = run("blue", "--top", 99, "--in", beside)
    assert code == 0 and embedded == 1 and len(out.splitlines()) == 6


def test_the_page(run, pictures, tmp_path):
    sky = paint(tmp_path / "sky.png", (90, 90, 250))
    code, out, err, _ = run('<红> & "red"', "green", "--like", sky, "--top", 3)
    assert code == 0, err
    page = (tmp_path / "out" / "answers.html").read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page
    assert '<h2 dir="auto">&lt;红&gt; &amp; &quot;red&quot;</h2>' in page and "<红>" not in page
    rows = page.split('<div class="row">')[1:]
    assert [row.count("<figure") for row in rows] == [3, 3, 4]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", rows[1])
    assert captions[0] == "0.9991<br>自然/<br>草 &lt;green&gt; &amp; more.png"
    assert captions[1] == "0.3918<br>./<br>rose.png"
    assert 'class="query"' in rows[2] and "sky.png" in rows[2].split("</figure>")[0]
    assert page.count("data:image/jpeg;base64,") == sum(row.count("<figure") for row in rows)
    links = re.findall(r'href="(file://[^"]*)"', page)
    assert (pictures / "自然" / "草 <green> & more.png").as_uri() in links
    assert len(links) == 10
    for fact in ("in: ", "config: ", "w.safetensors", "view: ResizeCenterCrop", "4 images"):
        assert fact in page, fact


def test_the_page_shows_what_was_found(run, pictures, tmp_path):
    """Of many images the pictures of the right ones."""
    run("blue", "green", "--top", 1)
    page = (tmp_path / "out" / "answers.html").read_text(encoding="utf-8")
    names = ["blue.png", "草 &lt;green&gt; &amp; more.png"]
    assert re.findall('<img alt="(.*?)"', page) == names
    titles = re.findall('<figure class="" title="(.*?)"', page)
    assert [title.rsplit("/", 1)[1] for title in titles] == names


def test_images_that_are_too_large(run, pictures):
    code, out, err, _ = run("red", "-o", "dataloader.val.loader.max_pixels=100")
    assert code == 2 and "none of the 4 images can be read" in err


def test_it_stands_in_the_output_folder_of_the_config_by_default(
    photos, pictures, tmp_path, monkeypatch
):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    named = colour_run(tmp_path, photos, monkeypatch)
    out = tmp_path / "mine"
    given = [*named, "--in", pictures, "red", "--output-dir", out]
    code, said, err = run_here("search", *given)
    assert code == 0 and (out / "search" / "answers.html").exists(), err


def test_words_that_are_too_long_are_said(run, pictures):
    code, out, err, _ = run("red " * 30, "red")
    assert code == 0
    assert "is longer than the network reads (12 ids with start and end)" in err
    assert err.count("longer") == 1


def test_what_can_be_wrong(run, pictures, tmp_path, photos):
    def fails(*arguments, **more):
        code, out, err, embedded = run(*arguments, **more)
        assert code == 2 and out == "" and embedded == 0 and err.count("error: ") == 1, err
        return err.splitlines()[-1]

    assert "there is nothing to look for: give words, in quotes, or an image" in fails()
    assert "WORDS is empty; is it a shell variable" in fails(" ")
    assert "--in is empty" in fails("red", folder="")
    assert "--like is empty" in fails("--like", "")
    assert "--top lies between 1 and 1000" in fails("red", "--top", 0)
    assert "--top lies between 1 and 1000" in fails("red", "--top", 1001)
    assert "--batch-size is at least 1" in fails("red", "--batch-size", 0)
    assert "x.png: there is no such file" in fails("--like", tmp_path / "x.png")
    assert "nowhere: there is no such file or folder" in fails("red", folder=tmp_path / "nowhere")
    assert "red.bmp: is a file; images are searched in" in fails("red", folder=pictures / "red.bmp")
    (tmp_path / "empty").mkdir()
    assert "holds no image file" in fails("red", folder=tmp_path / "empty")
    assert "the query '&nbsp;' has no words in it" in run("&nbsp;")[2]


def test_numbers_that_are_none(run, pictures, tmp_path):
    write_weights(tmp_path, np.full((3, 3), 2.0))
    code, out, err, _ = run("endless")
    assert code == 2 and "the embedding of 'endless' is not finite" in err
    write_weights(tmp_path, np.full((3, 3), 3e38))
    code, out, err, _ = run("red")
    assert code == 2 and "the embeddings of the network are not finite" in err
    (tmp_path / "x.png").write_bytes(b"no image")
    write_weights(tmp_path, np.eye(3))
    code, out, err, _ = run("--like", tmp_path / "x.png")
    assert code == 2 and "x.png: is in no image format" in err


def test_a_network_that_embeds_no_words(trained, pictures, tmp_path):
    config, weights = trained
    given = ["-c", config, "--weights", weights, "--in", pictures, "red"]
    code, out, err = run_here("search", *given, "--output", tmp_path / "out")
    assert code == 2 and "Classifier embeds no texts (it has no embed_images)" in err


@pytest.mark.smoke
@pytest.mark.parametrize("tower", TOWERS)
def test_with_clip(tower, photos, tmp_path, monkeypatch):
    """The cosines of its own embeddings, by NumPy; a second time it embeds nothing."""
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    network = clip(tower)
    cfg = small_config(photos)
    cfg["model"] = {
        "name": "CLIP", "architecture": TOWERS[tower], "text": TEXT, "embed_dim": 48,
        "project_images": tower == "ViT",
    }  # fmt: skip
    size = 32 if tower == "ViT" else 64
    cfg["dataloader"]["val"]["dataset"]["transforms"][0]["size"] = size
    (tmp_path / "clip.yaml").write_text(yaml.safe_dump(cfg))
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_tensor_file(tmp_path / "clip.safetensors", state, {"kind": "weights"})
    given = ["-c", tmp_path / "clip.yaml", "--weights", tmp_path / "clip.safetensors"]
    queries, found = ["A photo of an apple!", "两只猫"], tmp_path / "found.json"
    given += ["--in", photos / "val", *queries, "--json", found, "--output", tmp_path, "--top", 13]
    code, out, err = run_here("search", *given)
    assert code == 0 and "13 embedded" in err, err
    network.eval()
    transforms = cfg["dataloader"]["val"]["dataset"]["transforms"]
    with paddle.no_grad():
        texts = network.embed_texts(paddle.to_tensor(network.tokenizer(queries)[0])).numpy()
        for row, answers in zip(texts, json.loads(found.read_text())):
            paths = [answer["path"] for answer in answers["answers"]]
            assert sorted(paths) == sorted(map(str, (photos / "val").rglob("*.jpg")))
            dataset = ImagePaths(paths, transforms)
            pixels = np.stack([dataset[i]["image"] for i in range(13)]).transpose(0, 3, 1, 2)
            images = paddle.to_tensor((pixels / 127.5 - 1).astype("float32"))
            rows = network.embed_images(images).numpy()
            cosines = rows @ row / np.linalg.norm(rows, axis=1) / np.linalg.norm(row)
            similarities = [answer["similarity"] for answer in answers["answers"]]
            np.testing.assert_allclose(similarities, cosines, atol=1e-5)
            assert similarities == sorted(similarities, reverse=True)
    again = run_here("search", *given)
    assert again[1] == out and "13 known from before, 0 embedded" in again[2]


@pytest.mark.smoke
def test_most_similar_by_numpy():
    rng = np.random.default_rng(0)
    rows, queries = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(70, 5))
    rows[9] = 2 * rows[4]
    without = np.where(np.arange(70) % 2, -1, np.arange(70) % 30)
    places, similarity = most_similar(rows, queries, 30, without)
    wide = rows.astype(np.float64)
    for i, query in enumerate(queries):
        cosines = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
        cosines = np.round(cosines, 9)
        if without[i] >= 0:
            cosines[without[i]] = -np.inf
        np.testing.assert_allclose(similarity[i], np.sort(cosines)[::-1], atol=1e-9)
        assert places[i].tolist() == np.argsort(-cosines, kind="stable").tolist()
