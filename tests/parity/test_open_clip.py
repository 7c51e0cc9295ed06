"""CLIP beside open_clip as it runs."""

import json

import numpy as np
import pytest
from odd_texts import odd_texts

from passl.tokenization import CLIPTokenizer


@pytest.mark.reference
def test_ten_thousand_odd_texts_have_the_same_ids(reference, tmp_path):
    # Whose own names of start and end become these even where a text spells them.
    texts = [text for text in odd_texts(10_000) if "_of_text>" not in text]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    reference("open_clip_tokens.py", tmp_path / "texts.json", tmp_path / "ids.npy")
    ids, _ = CLIPTokenizer()(texts)
    np.testing.assert_array_equal(ids, np.load(tmp_path / "ids.npy"))
