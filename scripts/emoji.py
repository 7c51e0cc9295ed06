#!/usr/bin/env python3
"""Makes pairs of a picture and a caption of the emoji of three npm packages.

Writes ``TARGET/google/*.png`` and ``TARGET/twitter/*.png``, 64 pixels a side, composited on white,
and the tables ``train.tsv`` and ``test.tsv`` (also ``train_zh.tsv`` and ``test_zh.tsv``, in
Chinese) with the columns ``filepath``, relative to TARGET, and ``caption``: the name and up to
three tags. ``test_google.tsv`` and ``test_twitter.tsv`` are the parts of ``test.tsv`` by drawing
set.

The split is by what is drawn, not by picture: a man and a woman who run, in six tones of skin and
facing either way, are one drawing for this purpose, as are hearts of all colours. Flags, families
and clocks, which are hundreds of variants of few drawings, are left out. Test pictures are one a
drawing: 118 names, each drawn twice.

usage: python scripts/emoji.py PACKAGES TARGET
PACKAGES: the folder of emoji-datasource-{google,twitter}-16.0.0.tgz, emojibase-data-17.0.0.tgz
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

from PIL import Image
from tqdm import tqdm

SETS = ("google", "twitter")
LANGUAGES = ("en", "zh")
TEST_NAMES = 118
TAGS = 3
EXPECTED = {"train": 5656, "test": 2 * TEST_NAMES}
NOTICE = """\
Pairs of pictures and captions of emoji, made by scripts/emoji.py.

google/*.png    Noto Emoji, by Google LLC: Apache License 2.0
                (npm emoji-datasource-google 16.0.0)
twitter/*.png   Twemoji, by Twitter, Inc and other contributors: CC-BY 4.0
                (https://creativecommons.org/licenses/by/4.0/; npm emoji-datasource-twitter 16.0.0)
*.tsv           names and tags of emojibase-data 17.0.0, Copyright (c) 2017-2019 Miles Johnson: MIT

Changed here: pictures are composited on white, captions are put together of a name and its tags.
"""
# What one drawing may be had with, without an s at the end. To leave out a word too many only makes
# a group larger.
VARIES = set(
    """man woman person men women people boy girl adult child old older baby mx mr
    merman mermaid merperson prince
    facing left right up down upward downward leftward rightward
    red orange yellow green blue purple brown black white pink grey light dark medium
    small large big low high new full first last quarter waxing waning crescent gibbou
    open closed raised lowered with without of the on in and over a an or
    increasing decreasing muted slash""".split()
)


# What is one drawing whatever else the name says.
ONE = re.compile(
    r"\b(?:un)?(arrow|book|button|cat|cloud|envelope|fist|heart|input|kissing|locked|mailbox|medal|"
    r"mobile phone|moon|(?:frown|pout)ing|snowman|speaker|square)s?\b"
)


def left_out(entry, group, subgroup):
    """Returns whether an emoji is a flag, a family, a clock or but a part of others."""
    if group is None or group in ("flags", "component"):
        return True
    if subgroup == "family" or entry["label"].startswith("family"):
        return True
    return re.search("o’clock|-thirty", entry["label"]) is not None


def stem(label):
    """Returns what a name says of the drawing, without who, which way, colour, size and state."""
    label = re.sub(r":.*(skin tone|hair|bald|beard).*", "", label.lower())
    one = ONE.search(label)
    if one:
        return one[1].replace("pouting", "frowning")
    words = (word.rstrip("s") for word in re.findall(r"[^\W\d_]+", label))
    return " ".join(word for word in words if word not in VARIES) or "person"


def caption(label, tags, language):
    """Returns the name and the first tags that are not in it."""
    said = set(label.lower().split())
    more = [tag for tag in tags if tag.lower() != label.lower() and tag.lower() not in said]
    return ("，" if language == "zh" else ", ").join([label, *more[:TAGS]])


def entries(archive):
    """Yields (hexcode, stem, captions by language), in emojibase's order, variants behind.

    Args:
        archive: emojibase-data, open.
    """
    read = {
        language: json.load(archive.extractfile(f"package/{language}/data.json"))
        for language in LANGUAGES
    }
    messages = json.load(archive.extractfile("package/en/messages.json"))
    groups, subgroups = (
        {row["order"]: row["key"] for row in messages[key]} for key in ("groups", "subgroups")
    )
    told = {}
    for language, rows in read.items():
        for row in rows:
            for one in (row, *row.get("skins", ())):
                captions = told.setdefault(one["hexcode"], {})
                captions[language] = caption(one["label"], row.get("tags", ()), language)
    for row in read["en"]:
        where = groups.get(row.get("group")), subgroups.get(row.get("subgroup"))
        if left_out(row, *where):
            continue
        for one in (row, *row.get("skins", ())):
            yield one["hexcode"], stem(row["label"]), told[one["hexcode"]]


def pictures(archive):
    """Returns the file name of the picture of each sequence of code points, without FE0F."""
    found = {}
    for row in json.load(archive.extractfile("package/emoji.json")):
        for one in (row, *row.get("skin_variations", {}).values()):
            found[bare(one["unified"])] = one["image"]
    return found


def bare(hexcode):
    """Returns code points without the one that only asks for a picture instead of text."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def held_out(stems):
    """Returns the stems of the test side: the first by their SHA-256, whatever else there is."""
    order = sorted(set(stems), key=lambda s: hashlib.sha256(s.encode("utf-8")).digest())
    return set(order[:TEST_NAMES])


def on_white(content):
    """Returns a picture, in mode RGB."""
    with Image.open(io.BytesIO(content)) as image:
        image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def write_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filepath", "caption"])
        writer.writerows(rows)


def unpack(packages, target):
    """Writes ``target``, which appears only when whole."""
    with tarfile.open(packages / "emojibase-data-17.0.0.tgz") as archive:
        known = list(entries(archive))
    out = held_out([row[1] for row in known])
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    rows = {split: [] for split in ("train", "test")}
    for drawn in SETS:
        (partial / drawn).mkdir(parents=True)
        with tarfile.open(packages / f"emoji-datasource-{drawn}-16.0.0.tgz") as archive:
            files = pictures(archive)
            chosen, tested = {}, set()
            for hexcode, drawing, captions in known:
                name = files.get(bare(hexcode))
                if name is None or drawing in tested:
                    continue
                split = "test" if drawing in out else "train"
                tested.update({drawing} & out)
                chosen[f"package/img/{drawn}/64/{name}"] = name
                rows[split].append((f"{drawn}/{name}", captions))
            for member in tqdm(archive, desc=drawn, unit="file", disable=None):
                if member.name in chosen:
                    image = on_white(archive.extractfile(member).read())
                    image.save(partial / drawn / chosen[member.name])
    counts = {split: len(found) for split, found in rows.items()}
    if counts != EXPECTED:
        sys.exit(f"error: {packages}: found {counts} pairs instead of {EXPECTED}")
    for split, found in rows.items():
        for language in LANGUAGES:
            name = split + ("" if language == "en" else f"_{language}") + ".tsv"
            write_table(partial / name, [(path, told[language]) for path, told in found])
    for drawn in SETS:
        part = [(p, told["en"]) for p, told in rows["test"] if p.startswith(f"{drawn}/")]
        write_table(partial / f"test_{drawn}.tsv", part)
    (partial / "LICENCES.txt").write_text(NOTICE, encoding="utf-8")
    os.rename(partial, target)
    print(f"{target}: {', '.join(f'{split} {count}' for split, count in counts.items())} pairs")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
