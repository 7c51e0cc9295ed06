"""Measures retrieval in the processes that Paddle's launcher starts: FOLDER/<rank>.json.

usage: retrieval_processes.py FOLDER
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import passl  # noqa: F401  before paddle

# isort: split
from told_pairs import CLOCK, Told, pairs_loader, with_ties

from passl.distributed.processes import join_processes
from passl.evaluation import retrieval
from passl.evaluation.retrieval import Retrieval

if __name__ == "__main__":
    joined = join_processes()
    retrieval._CELLS = 900
    images, captions, texts = with_ties()
    loader = pairs_loader(captions, 7, joined.rank, joined.size)
    record = Retrieval().evaluate(Told(images, texts), loader, processes=joined)
    path = Path(sys.argv[1], f"{joined.rank}.json")
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in CLOCK}))
