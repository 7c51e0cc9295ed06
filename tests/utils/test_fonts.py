"""Captions in all languages: the font that has the letters, else the number of the class."""

import logging
import time
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from matplotlib import font_manager
from PIL import Image

from passl.cli.predict import _write_answers
from passl.datasets.batch_cells import batch_cells
from passl.datasets.sources.paths import ImagePaths
from passl.deployment.predictor import Prediction
from passl.evaluation import report
from passl.evaluation.classification import Classification
from passl.utils import fonts as module
from passl.utils.contact_sheet import contact_sheet
from passl.utils.fonts import Fonts, installed_fonts

GREY = np.full((8, 8, 3), 200, np.uint8)


def write_font(path, letters, name="Boxes", empty=""):
    """A font in which each letter is a full box; those of ``empty`` leave no trace."""
    font = FontBuilder(1000, isTTF=True)
    names = {ord(letter): f"u{ord(letter):x}" for letter in letters + empty}
    font.setupGlyphOrder([".notdef", *names.values()])
    font.setupCharacterMap(names)
    pen = TTGlyphPen(None)
    nothing = pen.glyph()
    pen.moveTo((0, 0))
    for corner in ((0, 800), (1000, 800), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    box = pen.glyph()
    boxes = {names[ord(letter)]: box for letter in letters}
    font.setupGlyf({".notdef": nothing, **dict.fromkeys(names.values(), nothing), **boxes})
    font.setupHorizontalMetrics({glyph: (1000, 0) for glyph in [".notdef", *names.values()]})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800)
    font.setupPost()
    font.save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Fonts of a machine: one with two Chinese letters, and things that are no fonts."""
    place = tmp_path / "fonts"
    place.mkdir()
    write_font(place / "wqy.ttf", "苹果")
    (place / "damaged.ttf").write_bytes(b"\0\1\0\0 no font")
    (place / "noto-sans-cjk.otf").write_bytes(b"")
    return str(place)


@pytest.fixture
def machine(monkeypatch):
    """Makes a folder the only one of the machine that has fonts."""
    import matplotlib.font_manager

    def put(place):
        find = matplotlib.font_manager.findSystemFonts
        monkeypatch.setattr(
            matplotlib.font_manager, "findSystemFonts", lambda fonts=None: find([str(place)])
        )
        installed_fonts.cache_clear()

    yield put
    installed_fonts.cache_clear()


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(
        module.logger, "warning", lambda text, *arguments: lines.append(text % arguments)
    )
    return lines


def ink(text, fonts):
    """Where a line leaves ink on a sheet: bool ``[H, W]``, beginning with the line's letters."""
    sheet = np.asarray(contact_sheet([[(GREY, text)]], fonts=fonts).convert("L"))
    return sheet[3:16, 4:164] < 128


# ---------------------------------------------------------------- which font


@pytest.mark.smoke
def test_letters_come_from_whichever_font_has_them(folder, warnings):
    fonts = Fonts(folders=[folder])
    assert [part for part, _ in fonts.runs("98.2 % 苹果 ×")] == ["98.2 % ", "苹果", " ×"]
    base, chinese = fonts.base, fonts.of("果")
    assert [font for _, font in fonts.runs("98.2 % 苹果 ×")] == [base, chinese, base]
    assert chinese is not base and fonts.have("98.2 % 苹果 ×") and not warnings
    width = round(base.getlength("98.2 % "))
    mixed = ink("98.2 % 苹果", fonts)
    assert (mixed[:, :width] == ink("98.2 % ", fonts)[:, :width]).all()
    # Two boxes of 11 pixels side by side, 8.8 above the base line, which DejaVu's letters stand on.
    box = mixed[:, width : width + 22]
    bottom = np.flatnonzero(ink("HHH", fonts).any(axis=1)).max()
    assert box[bottom - 7 : bottom + 1].mean() > 0.95 and not box[bottom + 1 :].any()
    assert not mixed[:, width + 24 :].any()


def test_letters_that_no_font_has(folder, warnings):
    fonts = Fonts(folders=[folder])
    assert fonts.name_of("苹果", 4) == "苹果" and fonts.name_of("apple", 4) == "apple"
    assert fonts.name_of("梨 pear", 7) == "class 7"
    assert fonts.runs("梨_苹.jpg")[0] == ("?_", fonts.base)  # a file's name has no number
    assert fonts.name_of("🍐", 8) == "class 8"
    assert (
        len(warnings) == 1 and "梨" in warnings[0] and "apt install fonts-noto-cjk" in warnings[0]
    )


def test_without_any_font(tmp_path, warnings):
    fonts = Fonts(folders=[str(tmp_path)])
    assert fonts.name_of("苹果", 0) == "class 0" and fonts.name_of("Äpfel…", 1) == "Äpfel…"
    assert (ink("苹果", fonts) == ink("??", fonts)).all() and len(warnings) == 1


def test_letters_that_are_not_to_be_seen(tmp_path, warnings):
    fonts = Fonts(folders=[str(tmp_path)])
    # A joiner between emoji, a variation selector, the wide space of Chinese.
    assert "".join(part for part, _ in fonts.runs("a\U000e0020b\ufe0fc\u3000d")) in (
        "abc d",
        "ab\ufe0fc d",
    )
    assert fonts.have("a\U000e0020b\ufe0fc\u3000d") and not warnings


def test_what_dejavu_has_looks_as_ever(folder):
    """And none of it opens a font of the machine."""
    fonts = Fonts(folders=[folder])
    fonts._installed = None
    for text in ("apple", "Größe é × …", "Привет", "تفاح", "😀", "x" * 90, "a\tb"):
        assert fonts.name_of(text, 3) == text
        assert [font for _, font in fonts.runs(text)] == [fonts.base]
    assert ink("é", fonts).any()
    fonts.name_of("plain", 0)


@pytest.mark.parametrize("place", [0, 1])
def test_collections(tmp_path, place):
    parts = [write_font(tmp_path / f"{i}.part", "苹" if i == place else "果") for i in (0, 1)]
    whole = TTCollection()
    whole.fonts = [TTFont(part) for part in parts]
    (tmp_path / "fonts").mkdir()
    whole.save(tmp_path / "fonts" / "both.ttc")
    fonts = Fonts(folders=[str(tmp_path / "fonts")])
    assert fonts.have("苹果") and fonts.of("苹") is not fonts.of("果")
    assert ink("苹", fonts).sum() > 60 and ink("果", fonts).sum() > 60


def test_known_fonts_and_plain_cuts_are_looked_at_first(tmp_path):
    names = ("aaa.ttf", "NotoSansCJK-Bold.ttf", "NotoSansCJK-Regular.ttf", "wqy-zenhei.ttf")
    for name in names:
        write_font(tmp_path / name, "苹" if name != "wqy-zenhei.ttf" else "苹果", name=name[:-4])
    fonts = Fonts(folders=[str(tmp_path)])
    assert fonts.of("苹").getname()[0] == "NotoSansCJK-Regular"
    assert fonts.of("果").getname()[0] == "wqy-zenhei"


def test_fonts_of_boxes_and_of_nothing_are_passed_over(tmp_path):
    write_font(tmp_path / "LastResort.ttf", "苹果梨")  # macOS: a box for every letter
    write_font(tmp_path / "emoji.ttf", "果", empty="苹")  # coloured pictures leave no ink
    fonts = Fonts(folders=[str(tmp_path)])
    assert [fonts.of(letter) is not None for letter in "苹果梨"] == [False, True, False]


def test_the_search_ends(folder, monkeypatch, warnings):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    opened = []

    def slow(path, size):
        opened.append(path)
        time.sleep(0.05)
        yield module._Face(np.array([], np.int64), None)

    fonts = Fonts(folders=[folder])
    assert fonts.have("é")
    monkeypatch.setattr(module, "_faces_of", slow)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda folders: ["a.ttf"] * 999)
    assert not fonts.have("苹果梨") and not fonts.have("他")
    assert 2 <= len(opened) <= 6 and len(warnings) == 1
    assert warnings[0].startswith("of the fonts that 0.2 s suffice to look through none has")


def test_what_is_listed_slowly_is_looked_at(folder, warnings, monkeypatch):
    """matplotlib makes a list of its own when it is first asked."""
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    listing = font_manager.findSystemFonts

    def slow(folders):
        time.sleep(0.3)
        return listing(folders)

    monkeypatch.setattr(font_manager, "findSystemFonts", slow)
    assert Fonts(folders=[folder]).have("苹") and not warnings


def test_what_font_tools_says_is_not_shown(folder, caplog):
    from fontTools.ttLib import TTFont

    noisy = TTFont.getBestCmap

    def talk(self):
        logging.getLogger("fontTools.ttLib").warning("an odd time stamp")
        return noisy(self)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(TTFont, "getBestCmap", talk)
        assert Fonts(folders=[folder]).have("苹果")
        assert not caplog.records
        logging.getLogger("fontTools.ttLib").warning("of somebody else")
        assert len(caplog.records) == 1


# ---------------------------------------------------------------- who draws


def captions(monkeypatch, place):
    seen = []

    def record(rows, **rest):
        seen.extend(text for row in rows for _, text in row)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(place, record)
    return seen


@pytest.mark.parametrize("letters", ["苹果", ""])
def test_every_picture(letters, tmp_path, machine, monkeypatch, photos):
    (tmp_path / "fonts").mkdir()
    if letters:
        write_font(tmp_path / "fonts" / "some.ttf", letters)
    machine(tmp_path / "fonts")
    apple = "苹果" if letters else "class 1"

    dataset = SimpleNamespace(class_names=["kiwi", "苹果"])
    batch = {"image": paddle.zeros([2, 3, 4, 4]), "label": paddle.to_tensor([1, 0])}
    loader = SimpleNamespace(dataset=dataset, batch_transforms=[])
    assert [text for _, text in batch_cells(batch, loader)] == [apple, "kiwi"]
    batch.update(partner_label=paddle.to_tensor([0, 1]), partner_weight=paddle.ones([2]) * 0.25)
    mixed = [f"0.75 {apple}\n0.25 kiwi", f"0.75 kiwi\n0.25 {apple}"]
    assert [text for _, text in batch_cells(batch, loader)] == mixed

    seen = captions(monkeypatch, "passl.utils.contact_sheet.contact_sheet")
    path = str(photos / "val" / "kiwi" / "001.jpg")
    answers = [Prediction(path, [1, 0], ["苹果", "kiwi"], [0.75, 0.25])]
    _write_answers(tmp_path / "out", ImagePaths([path]), answers)
    assert seen == [f"75.0 % {apple}\n001.jpg"]

    seen = captions(monkeypatch, "passl.evaluation.report.contact_sheet")
    answers = SimpleNamespace(
        labels=np.array([0, 1]), predicted=np.array([1, 0]),
        confidence=np.array([0.6, 0.9]), label_probability=np.array([0.4, 0.9]),
    )  # fmt: skip
    images = ImagePaths([path, path])
    result = {"top1": 50.0, "top5": 100.0, "loss": 1.0, "samples": 2}
    names = dataset.class_names
    evaluator = Classification()
    path = report.write_report(tmp_path, answers, images, names, evaluator, result, {})
    page = path.read_text("utf-8")
    assert seen == [f"90.0 % kiwi\nis {apple}", f"60.0 % {apple}\nis kiwi"]
    assert "苹果" in page and "class 1" not in page, "a browser has fonts of its own"
