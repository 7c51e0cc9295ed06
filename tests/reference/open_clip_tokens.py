"""Ids of texts by open_clip.

python tests/reference/open_clip_tokens.py TEXTS.json OUT.npy
"""

import json
import sys
from pathlib import Path

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
np.save(sys.argv[2], SimpleTokenizer()(texts).numpy())
