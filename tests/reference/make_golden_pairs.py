"""A shard as img2dataset writes it, by the writer that it uses, and what WebDataset reads from it.

Run with webdataset 1.0.2 and Pillow 13.0.0. img2dataset (its writer.py) gives webdataset's
TarWriter a key of five digits for the shard and four for the sample, ``jpg``, ``txt`` (empty where
there is no caption) and ``json`` with an indent of 4.
"""

import hashlib
import io
import json
from pathlib import Path

import webdataset
from PIL import Image

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CAPTIONS = [
    "A red ball, bouncing",
    None,
    "  一只在雪地里奔跑的黑狗 ",
    "&quot;café&quot; 🐕\nsecond line",
    "NA",
    " \n",
]


def main() -> None:
    path = GOLDEN / "img2dataset.tar"
    with open(path, "wb") as file, webdataset.TarWriter(file, mtime=0) as writer:
        for number, caption in enumerate(CAPTIONS):
            content = io.BytesIO()
            Image.new("RGB", (9 + number, 8), (40 * number, 90, 200)).save(content, "JPEG")
            key = f"00001{number:04d}"
            facts = {
                "url": f"https://example.org/{number}.jpg", "caption": caption, "key": key,
                "status": "success", "error_message": None, "width": 9 + number,
                "height": 8, "exif": "{}",
            }  # fmt: skip
            writer.write(
                {
                    "__key__": key,
                    "jpg": content.getvalue(),
                    "txt": "" if caption is None else caption,
                    "json": json.dumps(facts, indent=4),
                }
            )
    found = [
        {
            "key": sample["__key__"],
            "sha256": hashlib.sha256(sample["jpg"]).hexdigest(),
            "txt": sample["txt"].decode("utf-8"),
            "caption": json.loads(sample["json"])["caption"],
        }
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert len(found) == len(CAPTIONS)
    text = json.dumps(found, ensure_ascii=False, indent=1)
    (GOLDEN / "img2dataset.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
