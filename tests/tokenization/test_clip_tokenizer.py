"""Ids of texts beside those of CLIP's own code and of open_clip."""

import gzip
import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

import passl.tokenization
from passl.tokenization import CLIPTokenizer, build_tokenizer, byte_pairs
from passl.tokenization.byte_pairs import cleaned
from passl.utils.errors import PasslError

FOLDER = Path(passl.tokenization.__file__).parent
# Of openai/CLIP's clip/simple_tokenizer.py and open_clip 3.3.0, which agree; without start and end.
IDS = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "it's 1234 o'clock, they're here": [
        585, 568, 272, 273, 274, 275, 334, 262, 6716, 267, 889, 982, 763,
    ],
    "schÃ¶n â€œquotedâ€\x9d": [844, 7255, 333, 257, 27706, 257],
    "AT&amp;amp;T &lt;b&gt; &#39;x&#39;": [536, 261, 339, 283, 321, 285, 262, 343, 262],
    "don’t “stop”": [847, 713, 257, 1691, 257],
    "naïve café — résumé": [1097, 35689, 563, 15304, 2005, 29106, 7054, 4166],
    "İstanbul ǅ": [328, 16384, 11231, 67, 129, 378],
    "ﬁnd ﬂow": [1416, 5608],
    "Ⅻ ½ ２３": [158, 227, 375, 33613, 273, 274],
    "👍🏽 emoji": [43722, 16327],
    "hello\0world": [12887, 1002],
    "#hashtag @user http://t.co/a_b": [
        258, 9238, 287, 7031, 15066, 12441, 339, 269, 1320, 270, 320, 318, 321,
    ],
    "": [],
}  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("text", IDS)
def test_ids_are_those_of_the_authors(text):
    assert CLIPTokenizer().encode(text) == IDS[text]


@pytest.mark.smoke
def test_entities_are_read_twice_and_no_more():
    """Also where a tag keeps ftfy from doing it once itself."""
    assert cleaned("<b>AT&amp;T") == cleaned("<b>AT&amp;amp;T") == "<b>at&t"
    assert cleaned("<b>AT&amp;amp;amp;T") == "<b>at&amp;t"


def test_an_ending_is_one_in_any_case():
    """The long s is an s that no lower case changes."""
    tokenizer = CLIPTokenizer()
    assert tokenizer.decode(tokenizer.encode("It\u2019\u017f a cat")) == "it '\u017f a cat"
    assert tokenizer.decode(tokenizer.encode("it'x a cat")) == "it ' x a cat"


def test_chinese_has_ids_of_bytes_and_comes_back():
    ids = CLIPTokenizer().encode("一只红色的袋鼠。")
    assert len(ids) == 20 and ids[:4] == [19759, 222, 34517, 103]
    assert CLIPTokenizer().decode(ids) == "一只红色的袋鼠 。"


@pytest.mark.smoke
def test_texts_stand_between_start_and_end():
    tokenizer = build_tokenizer()
    ids, cut = tokenizer(["a photo of a cat", "", "a cat"], context=8)
    assert ids.dtype == np.int64 and cut == 0
    assert ids.tolist() == [
        [49406, 320, 1125, 539, 320, 2368, 49407, 0],
        [49406, 49407, 0, 0, 0, 0, 0, 0],
        [49406, 320, 2368, 49407, 0, 0, 0, 0],
    ]


def test_long_texts_are_cut_before_the_end_and_counted():
    tokenizer = CLIPTokenizer()
    ids, cut = tokenizer(["a photo of a cat", "a photo of a", "a cat"], context=6)
    assert cut == 1
    assert ids[0].tolist() == [49406, 320, 1125, 539, 320, 49407]
    assert ids[1].tolist() == [49406, 320, 1125, 539, 320, 49407]  # as long as there is room
    assert tokenizer(["cat " * 75], 77)[1] == 0 and tokenizer(["cat " * 76], 77)[1] == 1
    with pytest.raises(PasslError, match="at least 3, not 2"):
        tokenizer(["a"], context=2)


def test_no_text_contains_start_or_end():
    tokenizer = CLIPTokenizer()
    for text in ("<|endoftext|> hello", "<|startoftext|>", "<start_of_text>", "<end_of_text>"):
        ids = tokenizer.encode(text)
        assert max(ids) < tokenizer.start, text
    assert tokenizer.encode("<|endoftext|> hello") == [27, 347, 40786, 4160, 91, 285, 3306]


def test_half_a_surrogate_pair_is_no_error():
    assert CLIPTokenizer().encode("caf\udce9") == CLIPTokenizer().encode("caf\ufffd")


def test_decoding_gives_the_words():
    tokenizer = CLIPTokenizer()
    ids, _ = tokenizer(["A  Photo of 2 cats!"], 16)
    assert tokenizer.decode(ids[0]) == "a photo of 2 cats !"


def test_the_list_of_pairs_is_the_one_it_is_said_to_be():
    said = (FOLDER / "clip_merges.md").read_text(encoding="utf-8")
    content = gzip.decompress((FOLDER / "clip_merges.txt.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() in said
    assert "MIT License" in said and len(content.splitlines()) == 48_895
    joined, spellings = byte_pairs._vocabulary()
    assert len(joined) == 48_894 and len(spellings) + 2 == CLIPTokenizer.size == 49_408


def test_a_page_without_spaces_takes_no_time():
    started = time.perf_counter()
    CLIPTokenizer().encode("".join(chr(0x4E00 + i % 5000) for i in range(20_000)))
    assert time.perf_counter() - started < 30  # by trying all pairs again and again: an hour
