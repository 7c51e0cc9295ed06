"""CLIP's tokenizer: byte pairs, joined by a list that was learned from English captions.

Sennrich, Haddow, Birch: "Neural Machine Translation of Rare Words with Subword Units", arXiv
1508.07909; over bytes, Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
section 2.2; CLIP's own, Radford et al., arXiv 2103.00020, section 2.4. Ids are those of
github.com/openai/CLIP, clip/simple_tokenizer.py.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import html
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Tuple

import ftfy
import numpy as np
import regex

from passl.tokenization.registry import TOKENIZERS
from passl.utils.errors import PasslError

_MERGES = Path(__file__).with_name("clip_merges.txt.gz")  # see clip_merges.md
_BYTES = 256
# Contractions, runs of letters, one digit, runs of anything else but space.
_PIECE = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
_SPACE = regex.compile(r"\s+")
_WORDS_KEPT = 2**17  # of each process; captions repeat the same few thousand words


@TOKENIZERS.register
class CLIPTokenizer:
    """Texts into the ids that CLIP's networks were trained with.

    A text is mended where its encoding was mistaken (ftfy), freed of HTML entities, put into lower
    case, and cut into words; the bytes of a word are joined, pair by pair, as far as the vocabulary
    goes. So any text has ids, whatever its language, but the vocabulary is one of English: a
    Chinese character takes two or three ids, and the released networks know hardly any Chinese.

    Ids: 0 to 255 the bytes, 256 to 511 the same at the end of a word, then the 48,894 joined pairs,
    ``start`` and ``end``. A text never contains these two, even where it spells their names.

    Attributes:
        size: how many ids there are, 49,408.
        start, end: the ids that stand before and after each text.

    Example:
        >>> ids, cut = CLIPTokenizer()(["a photo of a cat"], context=8)
        >>> ids.tolist(), cut
        ([[49406, 320, 1125, 539, 320, 2368, 49407, 0]], 0)
    """

    size = 49_408
    start, end = size - 2, size - 1

    def __call__(self, texts: Sequence[str], context: int = 77) -> Tuple[np.ndarray, int]:
        """Returns the ids of texts, each between ``start`` and ``end``, filled up with 0.

        Args:
            texts: n of them.
            context: ids of a text, L. Of a longer one the first L - 2 stay, before ``end``.

        Returns:
            int64 ``[n, L]``, and how many of the texts were cut.

        Raises:
            PasslError: a context without room for a text.
        """
        if context < 3:
            raise PasslError(
                f"context is the number of ids of a text, start and end included: at least 3, not "
                f"{context}"
            )
        ids, cut = np.zeros((len(texts), context), np.int64), 0
        for row, text in zip(ids, texts):
            found = self.encode(text)
            cut += len(found) > context - 2
            found = [self.start, *found[: context - 2], self.end]
            row[: len(found)] = found
        return ids, cut

    def encode(self, text: str) -> List[int]:
        """Returns the ids of a text, without ``start`` and ``end``, however many they are."""
        ids: List[int] = []
        for piece in _PIECE.findall(cleaned(text)):
            ids.extend(_ids_of_word(piece))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns what ids stand for as text; start, end and what follows it are left out."""
        _, spellings = _vocabulary()
        content = bytearray()
        for number in ids:
            if number == self.end:
                break
            if number != self.start:
                content += spellings[number]
        return content.decode("utf-8", "replace").strip()


def cleaned(text: str) -> str:
    """Returns a text as its ids are made of it: mended, unescaped, of single spaces, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _SPACE.sub(" ", text).strip().lower()


@functools.cache
def _vocabulary() -> Tuple[Dict[Tuple[int, int], int], List[bytes]]:
    """Returns which two ids make which one, and the bytes that each id stands for.

    An earlier pair of the list has a lower id and is joined first. In the list printable characters
    stand for the bytes: for most of them the one that the byte has in Latin-1, for the others, and
    in their order, those from U+0100 on. The ids of bytes have that order too.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(_BYTES) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(_BYTES + n) for n in range(len(others))]
    spellings = [bytes([byte]) for byte in plain + others]
    spellings += [spelling + b" " for spelling in spellings]
    number = {letter: i for i, letter in enumerate(letters)}
    number.update({f"{letter}</w>": _BYTES + i for i, letter in enumerate(letters)})
    joined: Dict[Tuple[int, int], int] = {}
    for line in gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()[1:]:
        left, right = line.split()
        pair = number[left], number[right]
        joined[pair] = number[left + right] = len(spellings)
        spellings.append(spellings[pair[0]] + spellings[pair[1]])
    return joined, spellings


@functools.cache
def _byte_ids() -> Dict[int, int]:
    return {spelling[0]: i for i, spelling in enumerate(_vocabulary()[1][:_BYTES])}


@functools.lru_cache(_WORDS_KEPT)
def _ids_of_word(word: str) -> Tuple[int, ...]:
    """Returns the ids of a word, whose pairs are joined in the order of the list.

    Of equal pairs the first one comes first. What can be joined waits in a heap, so that a "word"
    of a whole page, as a text without spaces is, takes no time either.
    """
    joined, _ = _vocabulary()
    byte_ids = _byte_ids()
    ids = [byte_ids[byte] for byte in word.encode("utf-8")]
    ids[-1] += _BYTES
    after = list(range(1, len(ids) + 1))
    before = list(range(-1, len(ids) - 1))
    waiting: List[Tuple[int, int, int]] = []  # (id of the pair, place, id on its right)

    def consider(place: int) -> None:
        right = after[place]
        if right < len(ids) and (ids[place], ids[right]) in joined:
            heapq.heappush(waiting, (joined[ids[place], ids[right]], place, right))

    for place in range(len(ids)):
        consider(place)
    gone = -1
    while waiting:
        pair, place, right = heapq.heappop(waiting)
        if joined.get((ids[place], ids[right])) != pair:  # one of them was joined meanwhile
            continue
        ids[place], ids[right] = pair, gone
        after[place] = after[right]
        if after[place] < len(ids):
            before[after[place]] = place
        if before[place] >= 0:
            consider(before[place])
        consider(place)
    return tuple(number for number in ids if number != gone)
