"""A file read in pieces gives the rows of the whole file, or is read again as a whole."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import recipe
from jobs import extract, pipeline
from jobs.engine.session import Engine
from jobs.engine.stage import Job
from jobs.extract import WarcFile

PROJECT = Path(__file__).parents[2]


def file(name: str, size: int) -> WarcFile:
    return WarcFile(f"/crawl/{name}", name, size, "id")


def test_few_large_files_are_cut_and_many_or_small_ones_are_not() -> None:
    large, small = file("large", 100 << 20), file("small", 1 << 20)
    cut = extract.split({"a": large, "b": small}, num_cores=2)
    assert [piece.whole for piece in cut] == [False] * 13 + [True]
    many = {f"{i}": large for i in range(8)}
    assert all(piece.whole for piece in extract.split(many, num_cores=2))
    assert len(extract.split({"a": file("huge", 10 << 30)}, num_cores=2)) == extract.MAX_PIECES


@pytest.mark.parametrize("size", [extract.PIECE_BYTES + 1, 3 * extract.PIECE_BYTES + 7, 50 << 20])
def test_the_pieces_of_a_file_are_all_of_it_once(size: int) -> None:
    cut = sorted(extract.split({"a": file("a", size)}, 2), key=lambda piece: piece.begin)
    assert cut[0].begin == 0
    assert [piece.end for piece in cut] == [*[piece.begin for piece in cut[1:]], None]
    assert sum(piece.size for piece in cut) == size
    assert len({piece.target for piece in cut}) == len(cut)


def page(number: int, body: bytes = b"") -> bytes:
    vocabulary = ["the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on"]
    words = random.Random(number).choices(vocabulary, k=300)
    html = body or f"<html><body><p>{' '.join(words)} {number}</p></body></html>".encode()
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + html
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/"
        f"{number}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def rows(root: Path) -> pa.Table:
    (path,) = (root / "documents").glob("*.parquet")
    return pq.read_table(path, columns=["record_offset", "url", "text", "rejected_by"])


@pytest.fixture
def extracted(
    tmp_path: Path, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes, int], pa.Table]:
    """Rows of an archive, read in pieces of so many bytes."""

    def run(data: bytes, piece_bytes: int) -> pa.Table:
        (tmp_path / "a.warc.gz").write_bytes(data)
        monkeypatch.setattr(extract, "PIECE_BYTES", piece_bytes)
        settings = recipe.load(PROJECT / "recipes" / "dclm.toml")
        root = tmp_path / f"root-{piece_bytes}"
        job = Job(settings, root, engines("sail"), (str(tmp_path / "a.warc.gz"),))
        pipeline.run(job, (extract.STAGE,))
        assert not list((root / "documents").glob(".*.piece"))
        return rows(root)

    return run


def test_pieces_give_the_rows_of_the_whole(extracted: Callable[[bytes, int], pa.Table]) -> None:
    data = b"".join(gzip.compress(page(number), mtime=0) for number in range(200))
    whole = extracted(data, 1 << 30)
    assert whole.num_rows == 200
    assert extracted(data, len(data) // 7).equals(whole)
    assert extracted(data, len(data) // 60).equals(whole)


def test_damage_at_a_cut_gives_the_rows_of_the_whole(
    extracted: Callable[[bytes, int], pa.Table],
) -> None:
    members = [gzip.compress(page(number), mtime=0) for number in range(60)]
    data = bytearray(b"".join(members))
    middle = len(data) // 2
    data[middle - 300 : middle + 300] = bytes(600)
    whole = extracted(bytes(data), 1 << 30)
    assert "damaged_record" in whole["rejected_by"].to_pylist()
    assert extracted(bytes(data), len(data) // 2 + 1).equals(whole)


def test_an_archive_inside_an_archive_does_not_lead_astray(
    extracted: Callable[[bytes, int], pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its members stand as they are in a member that could not be compressed further."""
    inner = b"".join(gzip.compress(page(1000 + number), mtime=0) for number in range(300))
    noise = random.Random(1).randbytes(len(inner))
    members = [page(1), page(2, noise + inner + noise), page(3), page(4)]
    data = b"".join(gzip.compress(member, 0, mtime=0) for member in members)
    whole = extracted(data, 1 << 30)
    assert whole.num_rows == 4
    joined: list[bool] = []
    join = extract.join
    monkeypatch.setattr(extract, "join", lambda *a: joined.append(join(*a)) or joined[-1])
    assert extracted(data, len(data) // 2 + 1).equals(whole)
    assert joined == [False]
