"""The experiment on emoji: its data, its measures and its table."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import clip
import clip_emoji
import emoji
import numpy as np
import paddle
import pytest
from PIL import Image

from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "names",
    [
        ["man running", "woman running: dark skin tone", "person running facing right"],
        ["red heart", "heart with arrow", "two hearts", "mending heart"],
        ["1st place medal", "sports medal"],
        ["locked", "unlocked", "locked with key"],
        ["woman pouting", "person frowning"],
        ["man", "girl", "old woman", "woman: blond hair", "man: red hair", "person: bald"],
        ["merman", "mermaid"],
        ["speaker low volume", "muted speaker"],
    ],
)
def test_one_drawing_has_one_stem(names):
    assert len({emoji.stem(name) for name in names}) == 1


def test_other_drawings_have_others():
    names = ["cook", "judge", "taxi", "grinning face", "tiger face", "axe", "cat", "catapult"]
    assert len({emoji.stem(name) for name in names}) == len(names)


def test_captions_do_not_say_a_word_twice():
    tags = ["run", "Running", "man", "fast", "hurry", "late"]
    assert emoji.caption("man running", tags, "en") == "man running, run, fast, hurry"
    assert emoji.caption("猫", ["猫", "宠物"], "zh") == "猫，宠物"
    assert emoji.caption("egg", [], "en") == "egg"
    assert emoji.caption("Hot dog", ["hot dog", "food"], "en") == "Hot dog, food"


def archive(path, files):
    with tarfile.open(path, "w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def png(colour, alpha):
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (*colour, alpha)).save(buffer, "PNG")
    return buffer.getvalue()


# hexcode, English, Chinese, group, subgroup, tags, variants of the skin
NAMES = [
    ("1F600", "grinning face", "嘿嘿", 0, 0, ["grin"], []),
    ("1F3C3", "person running", "跑步的人", 1, 1, ["run"], ["1F3C3-1F3FB", "1F3C3-1F3FF"]),
    ("1F3C3-200D-2640-FE0F", "woman running", "跑步的女人", 1, 1, ["run"], []),
    ("1F46A", "family", "家庭", 1, 2, [], []),
    ("1F550", "one o’clock", "一点", 3, 3, ["clock"], []),
    ("1F1E8-1F1F3", "flag: China", "旗: 中国", 4, 4, ["CN"], []),
    ("1F3FB", "light skin tone", "较浅肤色", 5, 5, [], []),
    ("1F955", "carrot", "胡萝卜", 3, 3, ["food"], []),
    ("2764-FE0F", "red heart", "红心", 0, 0, ["love"], []),
]  # fmt: skip
GROUPS = ["smileys", "people", "x", "objects", "flags", "component"]
SUBGROUPS = ["face", "person", "family", "thing", "flag", "tone"]


@pytest.fixture
def packages(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    files = {}
    for i, language in ((1, "en"), (2, "zh")):
        rows = [
            {
                "hexcode": row[0], "label": row[i], "group": row[3], "subgroup": row[4],
                "tags": row[5],
                "skins": [{"hexcode": code, "label": f"{row[i]}: tone"} for code in row[6]],
            }
            for row in NAMES
        ]  # fmt: skip
        rows.append({"hexcode": "1F1E6", "label": "regional indicator A"})  # without a group
        files[f"{language}/data.json"] = json.dumps(rows).encode()
    files["en/messages.json"] = json.dumps(
        {
            key: [{"order": i, "key": name} for i, name in enumerate(names)]
            for key, names in (("groups", GROUPS), ("subgroups", SUBGROUPS))
        }
    ).encode()
    archive(folder / "emojibase-data-17.0.0.tgz", files)
    for n, drawn in enumerate(emoji.SETS):
        files, rows = {}, []
        for i, (code, *_, skins) in enumerate(NAMES):
            image = f"{code.lower()}.png"
            variants = {s: {"unified": s, "image": f"{s.lower()}.png"} for s in skins}
            # The two write the same emoji with and without the point that asks for a picture.
            rows.append(
                {"unified": code.replace("-FE0F", ""), "image": image, "skin_variations": variants}
            )
            for name in (image, *(v["image"] for v in variants.values())):
                files[f"img/{drawn}/64/{name}"] = png((20 * i, 100 * n, 7), 0 if i == 0 else 255)
        archive(
            folder / f"emoji-datasource-{drawn}-16.0.0.tgz",
            {"emoji.json": json.dumps(rows).encode(), **files},
        )
    return folder


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["filepath"], row["caption"]) for row in csv.DictReader(file, delimiter="\t")]


@pytest.mark.parametrize("tested", ["running", "grinning face"])
def test_a_drawing_is_on_one_side(packages, tmp_path, monkeypatch, tested):
    counts = {"running": {"train": 6, "test": 2}, "grinning face": {"train": 12, "test": 2}}
    monkeypatch.setattr(emoji, "EXPECTED", counts[tested])
    monkeypatch.setattr(emoji, "held_out", lambda stems: {tested} & set(stems))
    target = tmp_path / "emoji"
    emoji.unpack(packages, target)
    names = {
        "grinning face": ["1f600.png"],
        "running": ["1f3c3.png"],  # one of the group, none of its variants
    }[tested]
    for drawn in emoji.SETS:
        found = [path for path, _ in rows_of(target / f"test_{drawn}.tsv")]
        assert found == [f"{drawn}/{name}" for name in names]
    test, train = rows_of(target / "test.tsv"), rows_of(target / "train.tsv")
    everywhere = [path for path, _ in test + train]
    assert len(everywhere) == len(set(everywhere)) == sum(counts[tested].values())
    assert not [
        p for p in everywhere if any(x in p for x in ("1f46a", "1f550", "1f1e8", "/1f3fb."))
    ]
    runs = [path for path, caption in train if "run" in caption]
    assert len(runs) == (0 if tested == "running" else 2 * 4)
    assert ("google/1f955.png", "carrot, food") in train
    zh = dict(rows_of(target / "train_zh.tsv"))
    assert zh["twitter/1f955.png"] == "胡萝卜，food" and len(zh) == len(train)
    for path in everywhere:
        with Image.open(target / path) as image:
            assert image.mode == "RGB" and image.size == (64, 64)
            white = path.endswith("1f600.png")  # it is transparent
            assert (image.getpixel((3, 3)) == (255, 255, 255)) == white
    assert "CC-BY 4.0" in (target / "LICENCES.txt").read_text(encoding="utf-8")


def test_other_counts_leave_nothing_behind(packages, tmp_path):
    with pytest.raises(SystemExit, match="instead of"):
        emoji.unpack(packages, tmp_path / "emoji")
    assert not (tmp_path / "emoji").exists()


def test_the_test_side_depends_on_names_alone():
    names = [f"name {i}" for i in range(300)]
    chosen = emoji.held_out(names)
    assert len(chosen) == emoji.TEST_NAMES and chosen == emoji.held_out(names[::-1] + names)
    first = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert chosen == set(first[: emoji.TEST_NAMES])
    # Another one changes one of them at the most.
    assert len(chosen - emoji.held_out([*names, "one more"])) <= 1


@pytest.mark.parametrize("npm", [True, False])
def test_fetching_says_what_is_wrong(tmp_path, npm):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "mkdir", "sha256sum", "rm", "mv", "rmdir", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    if npm:  # another file than the one that was asked for
        (tools / "npm").write_text("#!/usr/bin/env bash\necho x > emojibase-data-17.0.0.tgz\n")
        (tools / "npm").chmod(0o755)
    done = subprocess.run(
        ["bash", "scripts/fetch_emoji.sh", str(tmp_path / "emoji")], cwd=ROOT, text=True,
        capture_output=True, env={"PATH": str(tools)},
    )  # fmt: skip
    wanted = "is another file than emojibase-data 17.0.0" if npm else "npm is needed"
    assert done.returncode == 2 and wanted in done.stderr
    assert not (tmp_path / "emoji").exists()


# ---------------------------------------------------------------- measures


@pytest.mark.smoke
def test_recall_is_counted_both_ways_and_ties_are_drawn():
    n = 12
    similarity = np.eye(n)
    similarity[0] = 0.5  # a tie of twelve with what is right
    similarity[1, :3] = [2.0, 0.9, 3.0]  # two before it
    found = clip_emoji.recalls(similarity)
    right = [1 / 12 + 10, 5 / 12 + 11, 10 / 12 + 11]
    np.testing.assert_allclose(found["image_to_text"], np.array(right) * 100 / n)
    # Column 0: 2.0, then 0.5 is second; column 2: 3.0 before 1; the others keep theirs first.
    np.testing.assert_allclose(found["text_to_image"], [1000 / 12, 100.0, 100.0])


def test_cosines_do_not_depend_on_lengths():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 3)).astype(np.float32)
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in y] for a in x]
    np.testing.assert_allclose(clip_emoji.cosines(7 * x, y), expected, rtol=1e-5)


def test_rare_words_weigh_more():
    """ln((1 + n) / (1 + captions with the word)) + 1, as scikit-learn has it."""
    weigh = clip_emoji.word_weights(["Red cat", "red dog", "red red egg"])
    common, rare = np.log(4 / 4) + 1, np.log(4 / 2) + 1
    row = np.array([2 * common, 0, rare, 0])  # red, cat, dog, egg
    np.testing.assert_allclose(
        weigh(["dog RED, red unknown"])[0], row / np.linalg.norm(row), rtol=1e-12
    )
    assert not weigh(["unknown"]).any()


def test_the_pixel_baseline_looks_for_similar_pictures(tmp_path):
    """Pictures of one grey, of which each has five like it in the training part."""
    words = ["dark", "middle", "light"]
    train, tests = [], {drawn: [] for drawn in clip_emoji.SETS}

    def draw(name, grey):
        Image.new("RGB", (64, 64), (grey,) * 3).save(tmp_path / name)

    for i, word in enumerate(words):
        for copy in range(5):
            draw(f"{i}_{copy}.png", 100 * i + copy)
            train.append((f"{i}_{copy}.png", f"{word} thing"))
        for drawn, rows in tests.items():
            draw(f"{drawn}{i}.png", 100 * i + 5)
            rows.append((f"{drawn}{i}.png", word))
    emoji.write_table(tmp_path / "train.tsv", train)
    for drawn, rows in tests.items():
        emoji.write_table(tmp_path / f"test_{drawn}.tsv", rows)
    found = clip_emoji.pixel_baseline(tmp_path)
    assert found["google"]["image_to_text"][0] == found["twitter"]["text_to_image"][0] == 100.0


# ---------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def network():
    paddle.seed(0)
    return build_architecture(get_config(str(ROOT / clip_emoji.CONFIG)).model)


def test_the_network_is_of_the_published_size(network):
    """As many as open_clip's: 1,469,977 without the embeddings of the words."""
    count = sum(int(np.prod(p.shape)) for p in network.parameters())
    assert count == 4_632_089 and count - 49_408 * 64 == 1_469_977


def test_the_state_is_open_clips(network):
    """Two tables of names, written apart from one another, agree."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    found, expected = clip_emoji.open_clip_state(state), clip.open_clip_state(network)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array.reshape(found[name].shape), err_msg=name)
        assert found[name].ndim == array.ndim or name == "logit_scale"


def test_open_clips_network_is_told_by_the_config():
    model = get_config(str(ROOT / clip_emoji.CONFIG)).model
    assert clip_emoji.network_of(model) == {
        "embed_dim": 128,
        "quick_gelu": True,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32},
        "text_cfg": {"context_length": 16, "width": 64, "heads": 2, "layers": 2},
    }


# ---------------------------------------------------------------- the table


def result(value, losses, **more):
    figures = {way: [value, value + 10, value + 20] for way in clip_emoji.WAYS}
    return {**{drawn: figures for drawn in clip_emoji.SETS}, "losses": losses, **more}


def test_the_table_holds_all_and_says_how_far_apart(tmp_path):
    records = {
        "pixels": result(10.0, []),
        "PASSL, seed 0": result(4.0, [2.0] * 20 + [1.0] * 20),
        "PASSL, seed 1": result(8.0, [3.0] * 30),
        "open_clip, seed 0": result(
            6.0, [2.0002] + [2.0] * 29, reversed=[2.0] * 20, in_float64=[1.0] * 20,
            ours_in_float64=[1.0] * 19 + [1.0 + 1e-9],
        ),
    }  # fmt: skip
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    lines = clip_emoji.tell(tmp_path).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:8]]
    assert [row[0] for row in rows] == [
        "chance", "nearest pixels, no learning", "PASSL, seed 0", "PASSL, seed 1",
        "**PASSL, mean of 2**", "open_clip, seed 0",
    ]  # fmt: skip
    assert rows[0][1] == "0.8 / 4.2 / 8.5" and rows[1][4] == "10.0 / 20.0 / 30.0"
    assert rows[4][1:] == ["6.0 / 16.0 / 26.0"] * 4 + ["2.000"]
    said = "\n".join(lines[8:])
    assert "by 0.0e+00 and at most 1.0e-09 of their size in float64" in said
    assert "by 1.0e-04 and at most 1.0e-04 in float32" in said
    # R@5: √(16 · 84 / 118) = 3.4; chance 4.24 with √(4.24 · 95.76 / 118) = 1.85.
    assert "google, R@5, mean of both ways: 16.0 ± 3.4, 6.3 standard errors above chance" in said
    assert "open_clip 16.0, 0.0 standard errors apart" in said
