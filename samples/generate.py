"""Write the sample crawl: four WARC files and a truth file.

Every run on one machine writes the same bytes. Another zlib may compress differently, so offsets,
and the sizes and digests of compressed bodies, may differ elsewhere.
"""

import argparse
import json
from pathlib import Path

from crawl import files
from warc import Placed, record_id, write_warc


def main() -> None:
    """Write everything and say how much it was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    placed = [
        place
        for number, captures in enumerate(files())
        for place in write_warc(out / f"SAMPLE-{number:05}.warc.gz", captures)
    ]
    lines = [json.dumps(truth(place), ensure_ascii=False) + "\n" for place in placed]
    (out / "truth.jsonl").write_text("".join(lines), "utf-8", newline="\n")
    print(f"{len(placed)} captures in {out}")


def truth(place: Placed) -> dict[str, object]:
    """What is true of one capture, in the order of the fields in the truth file."""
    capture = place.capture
    return {
        "warc": place.warc,
        "offset": place.offset,
        "record_id": record_id(capture.key),
        "url": capture.url,
        "language": capture.language,
        "charset": capture.charset,
        "text": capture.text,
        "duplicate_of": record_id(capture.copy_of) if capture.copy_of else None,
        "duplicate_kind": capture.copy_kind,
        "expect": capture.expect,
        "why": capture.why,
        "traits": list(capture.traits),
    }


if __name__ == "__main__":
    main()
