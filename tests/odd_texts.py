"""Texts that a tokenizer may stumble over."""

import numpy as np


def odd_texts(count, seed=0):
    """Returns texts of words, letters of all scripts, marks, entities, mojibake and emoji."""
    rng = np.random.default_rng(seed)
    words = "a the photo of Cat's DON'T they'll we've I'm o'clock 3rd 1,234.5 U.S.A. naïve".split()
    words += ["<|endoftext|>", "&amp;", "&lt;br&gt;", "&#39;", "&nbsp;", "https://t.co/a_b?c=d"]
    words += "schÃ¶n â€œ donâ€™t ’s “x” ﬁne ＡＢ１２ 👍🏽 👩\u200d👩\u200d👧 🇫🇷 ½ Ⅻ".split()
    ranges = [(0, 0x80), (0x80, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80),
              (0x2000, 0x2C00), (0x3000, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
              (0xF900, 0xFFFD), (0x1F300, 0x1FAFF), (0x1D400, 0x1D7FF),
              (0xE0000, 0xE0100)]  # fmt: skip
    spaces = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2028", "\x1c", "\u200b", "", "", ""]
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(rng.integers(0, 12)):
            if rng.random() < 0.5:
                pieces.append(words[rng.integers(len(words))])
            else:
                low, high = ranges[rng.integers(len(ranges))]
                pieces.append("".join(map(chr, rng.integers(low, high, rng.integers(1, 9)))))
            pieces.append(spaces[rng.integers(len(spaces))])
        text = "".join(pieces)
        if rng.random() < 0.1:  # read in a mistaken encoding
            text = text.encode("utf-8").decode("latin-1")
        texts.append(text)
    return texts
