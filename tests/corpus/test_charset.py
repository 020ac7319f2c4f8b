"""Decoding: real pages against their known encodings, and pages re-encoded under false labels."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.text.charset import decode, encoding_of, meta_charset, meta_tags
from corpus.warc.http import parse_response
from corpus.warc.records import read_records

GERMAN = "Die schönen Äpfel fallen größtenteils über die Mauer; für Käufer heißt das: Öffnen. "
FRENCH = "L'élève a déjà mangé à la cantine où l'on sert des pâtes très épicées, ça va de soi. "
POLISH = "Zażółć gęślą jaźń: dziś wieczorem książki są tańsze, a śnieg leży już wszędzie. "
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy, což všichni věděli už dávno předtím. "
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю, пока он не остыл. "
GREEK = "Η γρήγορη αλεπού πηδάει πάνω από τον τεμπέλη σκύλο κάθε πρωί στην αυλή μας. "
TURKISH = (
    "Pijamalı hasta yağız şoföre çabucak güvendi, çünkü başka seçeneği hiç yoktu ve dışarıda "
    "yağmur yağıyordu. "
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗い所で泣いていた。"
)
KOREAN = "모든 국민은 인간으로서의 존엄과 가치를 가지며, 행복을 추구할 권리를 가진다. "
CHINESE = "我们的国家有很多美丽的地方，人民生活水平不断提高，经济发展速度很快。"
TAIWANESE = "我們的國家有很多美麗的地方，人民生活水準不斷提高，經濟發展速度很快。"

TEXTS = [
    (GERMAN, "windows-1252"),
    (FRENCH, "windows-1252"),
    (POLISH, "windows-1250"),
    (POLISH, "iso-8859-2"),
    (CZECH, "windows-1250"),
    (RUSSIAN, "windows-1251"),
    (RUSSIAN, "koi8-r"),
    (GREEK, "iso-8859-7"),
    (TURKISH, "windows-1254"),
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc-jp"),
    (KOREAN, "euc-kr"),
    (CHINESE, "gbk"),
    (TAIWANESE, "big5"),
]


def page(text: str, label: str | None) -> str:
    meta = f'<meta charset="{label}">' if label else ""
    return (
        f"<html><head>{meta}<title>{text[:20]}</title></head><body><p>{text * 4}</p></body></html>"
    )


@pytest.mark.parametrize("label", [None, "utf-8", "iso-8859-1", "true"])
@pytest.mark.parametrize(("text", "charset"), TEXTS, ids=lambda value: str(value)[:12])
def test_no_label_and_a_false_one_do_not_mislead(
    text: str, charset: str, label: str | None
) -> None:
    html = page(text, charset if label == "true" else label)
    decoded = decode(html.encode(charset))
    assert decoded.text == html
    assert decoded.charset == charset


@pytest.mark.parametrize("label", ["iso-8859-1", "windows-1251", "shift_jis", "gb2312", "ru"])
def test_utf8_under_a_false_label_is_utf8(label: str) -> None:
    html = page(GERMAN + RUSSIAN + JAPANESE, label)
    assert decode(html.encode(), label).text == html


def test_a_few_bad_bytes_do_not_make_a_page_another_encoding() -> None:
    body = page(GERMAN, None).encode() + b"gr\xfc\xdfe \xe4"
    decoded = decode(body)
    assert decoded.charset == "utf-8"
    assert GERMAN * 4 in decoded.text
    assert decoded.text.count("�") == 3


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_and_utf16_without_one(codec: str) -> None:
    html = page(GERMAN + RUSSIAN, "iso-8859-1")
    assert decode(html.encode(codec), "iso-8859-1").text == html


def test_iso_2022_jp_is_not_taken_for_ascii() -> None:
    html = page(JAPANESE, "iso-2022-jp")
    assert decode(html.encode("iso-2022-jp")).text == html


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("ISO-8859-1", "windows-1252"),
        (" latin1 ", "windows-1252"),
        ("gb2312", "gbk"),
        ("x-sjis", "shift_jis"),
        ("ks_c_5601-1987", "euc-kr"),
        ("cp1251", "windows-1251"),
        ("UTF8", "utf-8"),
        ("utf-16", "utf-8"),
        ("iso8859-2", "iso-8859-2"),
        ("nonsense", None),
        ("rot13", None),
        ("hex", None),
        ("utf-7", None),
        ("a\0b", None),
        ("", None),
        (None, None),
    ],
)
def test_labels_mean_what_browsers_take_them_for(label: str | None, name: str | None) -> None:
    assert encoding_of(label) == name


@given(st.binary(max_size=400), st.none() | st.text(max_size=12))
def test_any_bytes_under_any_label_give_text(body: bytes, label: str | None) -> None:
    assert len(decode(body, label).text) <= len(body)


def test_the_label_is_found_where_pages_have_it_and_not_in_comments() -> None:
    assert meta_charset(b"<!-- <meta charset=big5> --><META CHARSET='koi8-r' >") == "koi8-r"
    old = b'<meta content="text/html; charset=euc-kr" http-equiv=Content-Type>'
    assert meta_charset(old) == "euc-kr"
    assert meta_charset(b'<?xml version="1.0" encoding="windows-1251"?><html>') == "windows-1251"
    assert meta_charset(b"<html><title>charset=big5</title>") is None


@pytest.mark.parametrize("piece", ["<!--", "<meta ", "<meta a=", "<", "<meta a='"])
def test_scanning_for_tags_is_linear(piece: str) -> None:
    assert len(list(meta_tags(piece * 50_000))) <= 50_000


def pages(shared: Path) -> Iterator[tuple[str, str | None, bytes]]:
    with gzip.open(shared / "crawl" / "small-manifest.tsv.gz", "rt", encoding="utf-8") as lines:
        known = {row[0]: row[4] for row in csv.reader(lines, delimiter="\t")}
    for record in read_records(str(shared / "crawl" / "REALWEB-small-00000.warc.gz")):
        response = parse_response(record.content)
        if record.headers.get("warc-type") == "response" and response:
            header = re.search(r"charset=(\S+)", response.headers.get("content-type") or "")
            label = header[1] if header else None
            yield known[record.headers.get("warc-target-uri") or ""], label, response.body


def test_real_pages_decode_as_their_bytes_ask(shared: Path) -> None:
    """Where the manifest's charset, mostly the declared one, gives another text, ours is valid."""
    total = agree = 0
    for known, label, body in pages(shared):
        decoded = decode(body, label)
        codec = "cp1252" if known == "iso-8859-1" else known
        theirs = body.decode(codec, "replace").removeprefix("\ufeff")
        total += 1
        agree += decoded.text == theirs
        if decoded.text != theirs:
            ours = encoding_of(decoded.charset) or ""
            assert body.decode({"windows-1252": "cp1252"}.get(ours, ours)) == decoded.text
    assert (total, agree) == (240, 234)
