"""URL rules against plain sets, the forms that lists come in, and the compiled folder."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tldextract
from hypothesis import example, given
from hypothesis import strategies as st

from corpus.text import url_filter
from corpus.text.url_filter import (
    CompiledRules,
    HashedSet,
    UrlFault,
    UrlRules,
    host_of,
    registered_domain,
)
from schemas.errors import UserError

HOSTS = ("bad.com", "evil.co.uk", "sub.good.org", "good.org", "192.0.2.7", "intranet", "a.bad.com")
WORDS = ("casino", "loan", "free", "hot", "CASINO", "x1")
PATHS = ("", "/", "/page", "/page?q=1")


def rules(**lists: str | int) -> CompiledRules:
    """Rules from lists written as one string each, entries apart by blanks."""
    entries = {name: str(lists.get(name, "")).split() for name in url_filter.LISTS}
    return CompiledRules(
        HashedSet.of(entries["domains"]),
        HashedSet.of(entries["urls"]),
        frozenset(entries["hard_words"]),
        frozenset(entries["soft_words"]),
        tuple(sorted(entries["substrings"])),
        int(lists.get("min_soft_words", 2)),
    )


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def tar_of(path: Path, members: dict[str, str], links: dict[str, str] | None = None) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return str(path)


@st.composite
def urls(draw: st.DrawFn) -> str:
    host = draw(st.sampled_from(HOSTS))
    host = draw(st.sampled_from((host, f"www.{host}", f"a.b.{host}")))
    words = draw(st.lists(st.sampled_from(WORDS), max_size=3))
    joined = draw(st.sampled_from(("-", "/", "", "%20"))).join(words)
    scheme = draw(st.sampled_from(("http", "https")))
    return f"{scheme}://{host}{draw(st.sampled_from(PATHS))}{joined}"


LISTS = st.fixed_dictionaries(
    {
        "domains": st.sets(st.sampled_from(HOSTS), max_size=3),
        "urls": st.sets(st.sampled_from([h + p for h in HOSTS for p in PATHS]), max_size=9),
        "hard_words": st.sets(st.sampled_from(("casino", "x1")), max_size=1),
        "soft_words": st.sets(st.sampled_from(("loan", "free", "hot")), max_size=3),
        "substrings": st.sets(st.sampled_from(("nofree", "hotloan", "rgloan")), max_size=2),
        "min_soft_words": st.integers(1, 3),
    }
)

SUFFIXES = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def faults_by_sets(url: str, lists: dict[str, set[str]], min_soft_words: int) -> list[str]:
    """Every rule that a well-formed URL breaks, in the rules' order, by sets of strings."""
    host = urlsplit(url).hostname or ""
    words = set(re.split("[^a-zA-Z0-9]+", url))
    bare = url.split("://")[1]
    squeezed = "".join(c for c in url.lower() if c.isalnum() and c.isascii())
    broken = {
        "domain": SUFFIXES(url).top_domain_under_public_suffix in lists["domains"],
        "host": host in lists["domains"],
        "url": bare.removeprefix("www.") in lists["urls"],
        "hard_word": bool(words & lists["hard_words"]),
        "soft_words": len(words & lists["soft_words"]) >= min_soft_words,
        "substring": any(entry in squeezed for entry in lists["substrings"]),
    }
    return [name for name, is_broken in broken.items() if is_broken]


@given(urls(), LISTS)
def test_the_first_rule_broken_is_the_one_that_sets_of_strings_name(
    url: str, lists: dict[str, set[str] | int]
) -> None:
    least = lists.pop("min_soft_words")
    assert isinstance(least, int)
    sets = {name: entries for name, entries in lists.items() if isinstance(entries, set)}
    compiled = rules(**{name: " ".join(entries) for name, entries in sets.items()})
    found = replace(compiled, min_soft_words=least).fault(url)
    assert (found and found.rule) == next(iter(faults_by_sets(url, sets, least)), None)


@given(st.text() | st.text("ahtp:/@[].\\%#? \ud800\u3002é0-", max_size=40))
@example("http://" + "a." * 100_000)
@example("http://xn--\ud800.xn--a/")
@example("http://" + "é" * 300 + ".com")
@example("//[::1")
def test_no_string_stops_the_rules(url: str) -> None:
    compiled = rules(domains="bad.com", urls="bad.com/x", hard_words="x", substrings="yy")
    found = compiled.fault(url)
    assert found is None or found.entry


@pytest.mark.parametrize(
    ("url", "host", "domain"),
    [
        ("https://www.Bad.COM:8080/x", "www.bad.com", "bad.com"),
        ("http://user:pass@shop.evil.co.uk./", "shop.evil.co.uk", "evil.co.uk"),
        ("http://a@b@bad.com?q=http://good.org/", "bad.com", "bad.com"),
        ("http://192.0.2.7:80/", "192.0.2.7", ""),
        ("http://[2001:DB8::1]:443/x", "2001:db8::1", ""),
        ("http://bücher.example.com/", "xn--bcher-kva.example.com", "example.com"),
        ("http://WWW.BÜCHER.de/", "www.xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("http://xn--bcher-kva.de/", "xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("http://bad。com/", "bad.com", "bad.com"),
        ("http:\\\\bad.com\\good.org", "bad.com", "bad.com"),
        ("//bad.com/x", "bad.com", "bad.com"),
        ("bad.com/x", "bad.com", "bad.com"),
        ("bad.com:80", "bad.com", "bad.com"),
        ("http://co.uk/", "co.uk", ""),
        ("http://intranet/", "intranet", ""),
        ("http:///path", "", ""),
        ("", "", ""),
    ],
)
def test_a_host_is_read_as_browsers_read_it(url: str, host: str, domain: str) -> None:
    assert (host_of(url), registered_domain(host_of(url))) == (host, domain)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://x.bad.com/", UrlFault("domain", "bad.com")),
        ("http://sub.good.org/", UrlFault("host", "sub.good.org")),
        ("http://other.good.org/", None),
        ("http://not-bad.com/bad.com", None),
        ("http://192.0.2.7/", UrlFault("host", "192.0.2.7")),
        ("https://www.x.org/a?b", UrlFault("url", "x.org/a?b")),
        ("https://x.org/a", None),
        ("http://x.org/A-casino_B", UrlFault("hard_word", "casino")),
        ("http://x.org/casinos", None),
        ("http://x.org/CASINO", None),
        ("http://x.org/free/hot", UrlFault("soft_words", "free hot")),
        ("http://x.org/free/free", None),
        ("http://x.org/bad-good/PHRA-Se", UrlFault("substring", "phrase")),
    ],
)
def test_a_fault_names_the_rule_and_the_entry(url: str, fault: UrlFault | None) -> None:
    compiled = rules(
        domains="bad.com sub.good.org 192.0.2.7",
        urls="x.org/a?b",
        hard_words="casino",
        soft_words="free hot",
        substrings="phrase",
    )
    assert compiled.fault(url) == fault


def test_no_lists_reject_no_url() -> None:
    assert url_filter.compile_rules(UrlRules()).fault("http://casino.example/") is None


def test_a_list_is_the_same_in_every_form_it_comes_in(tmp_path: Path) -> None:
    text = "# sites\n\nBad.com\r\n  evil.co.uk.\nbücher.de\n"
    forms = [
        write(tmp_path / "list.txt", text),
        write(tmp_path / "marked.txt", "\ufeff" + text),
        write(tmp_path / "list.gz", gzip.compress(text.encode())),
        tar_of(tmp_path / "adult.tar.gz", {"adult/domains": text, "adult/urls": "x.org/a"}),
        str(Path(write(tmp_path / "adult" / "domains", text)).parent),
    ]
    read = [url_filter.compile_rules(UrlRules(domains=(form,))).domains for form in forms]
    expected = HashedSet.of(["bad.com", "evil.co.uk", "xn--bcher-kva.de"])
    assert all(np.array_equal(found.hashes, expected.hashes) for found in read)


def test_words_lose_punctuation_case_and_comments(tmp_path: Path) -> None:
    path = write(tmp_path / "words", "Auto Erotic\n#ass\n--\nX-rated\n")
    compiled = url_filter.compile_rules(UrlRules(hard_words=(path,), substrings=(path,)))
    assert compiled.hard_words == {"autoerotic", "xrated"}
    assert compiled.substrings == ("autoerotic", "xrated")


def test_an_archive_is_read_for_the_wanted_files_only_and_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    members = {"../../domains": "bad.com", "a/urls": "x.org/a", "b/domains": "evil.co.uk"}
    path = tar_of(tmp_path / "lists.tar.gz", members, {"c/domains": "/etc/hosts"})
    before = sorted(tmp_path.rglob("*"))
    compiled = url_filter.compile_rules(UrlRules(domains=(path,), urls=(path,)))
    assert (len(compiled.domains), len(compiled.urls)) == (2, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_that_is_none_is_named(tmp_path: Path) -> None:
    torn = gzip.compress(b"bad.com\n" * 9999)[:-20]
    wrong = {
        str(tmp_path / "none"): "No such file",
        write(tmp_path / "page.png", b"\x89PNG\0\0"): "NUL",
        write(tmp_path / "torn.gz", torn): "ended",
        write(tmp_path / "torn.tar.gz", b"nothing"): "could not be opened",
        tar_of(tmp_path / "urls.tar.gz", {"a/urls": ""}): "no file called 'domains'",
        str(tmp_path): "no file called 'domains'",
    }
    for path, reason in wrong.items():
        with pytest.raises(UserError, match=reason) as error:
            url_filter.compile_rules(UrlRules(domains=(path,)))
        assert str(error.value).startswith(f"url.domains = {path!r}: not a readable list")


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match=r"min_soft_words = 0: must be at least 1"):
        UrlRules(min_soft_words=0)
    with pytest.raises(ValueError, match=r"urls = \[''\]: must be paths"):
        UrlRules(urls=("",))


@pytest.fixture
def lists(tmp_path: Path) -> UrlRules:
    return UrlRules(
        domains=(write(tmp_path / "a", "bad.com"), write(tmp_path / "b", "evil.co.uk")),
        hard_words=(write(tmp_path / "hard", "casino"),),
        soft_words=(write(tmp_path / "soft", "free\nhot"),),
        substrings=(write(tmp_path / "sub", "phrase"),),
    )


def test_what_is_loaded_judges_like_what_was_compiled(lists: UrlRules, tmp_path: Path) -> None:
    loaded = url_filter.load(url_filter.build(lists, tmp_path / "root"))
    compiled = url_filter.compile_rules(lists)
    addresses = ("x.bad.com", "good.org/casino", "good.org/free/hot", "good.org/phrase", "good.org")
    found = [loaded.fault(f"http://{address}") for address in addresses]
    assert found == [compiled.fault(f"http://{address}") for address in addresses]
    assert [fault and fault.rule for fault in found] == [
        *("domain", "hard_word", "soft_words", "substring"),
        None,
    ]


def test_the_hashes_are_mapped_read_only(lists: UrlRules, tmp_path: Path) -> None:
    hashes = url_filter.load(url_filter.build(lists, tmp_path / "root")).domains.hashes
    assert isinstance(hashes.base, np.memmap)
    assert not hashes.flags.writeable


def test_the_folder_is_named_by_contents_and_settings_alone(
    lists: UrlRules, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    built = url_filter.build(lists, root)
    moved = write(tmp_path / "elsewhere", "bad.com")
    assert url_filter.build(replace(lists, domains=(lists.domains[1], moved)), root) == built
    assert url_filter.build(replace(lists, min_soft_words=3), root) != built
    assert url_filter.build(replace(lists, soft_words=lists.hard_words), root) != built
    Path(lists.domains[0]).write_text("other.com")
    assert url_filter.build(lists, root) != built


def test_lists_are_compiled_once_and_again_after_a_kill(lists: UrlRules, tmp_path: Path) -> None:
    built = url_filter.build(lists, tmp_path / "root")
    written = {path: path.stat().st_ino for path in built.iterdir()}
    url_filter.build(lists, tmp_path / "root")
    assert {path: path.stat().st_ino for path in built.iterdir()} == written
    (built / "rules.json").unlink()
    url_filter.build(lists, tmp_path / "root")
    assert sorted(built.iterdir()) == sorted(written)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\x93NUMPY\1\0"])
@pytest.mark.parametrize("file", ["rules.json", "domains.npy"])
def test_a_damaged_folder_is_named(
    lists: UrlRules, tmp_path: Path, file: str, damage: bytes
) -> None:
    path = url_filter.build(lists, tmp_path / "root") / file
    path.write_bytes(damage)
    with pytest.raises(UserError, match=re.escape(str(path))):
        url_filter.load(path.parent)


@given(st.sets(st.text()), st.text())
def test_a_hashed_set_holds_what_the_set_holds(entries: set[str], other: str) -> None:
    hashed = HashedSet.of([*entries, *entries])
    assert len(hashed) == len(entries)
    assert all(entry in hashed for entry in entries)
    assert (other in hashed) == (other in entries)


def test_an_empty_set_is_saved_and_opened(tmp_path: Path) -> None:
    HashedSet.of([]).save(tmp_path / "none.npy")
    opened = HashedSet.open(tmp_path / "none.npy")
    assert len(opened) == 0
    assert "" not in opened


def test_an_array_of_another_kind_is_no_set(tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", np.zeros(3))
    with pytest.raises(UserError, match="1-d array of float64"):
        HashedSet.open(tmp_path / "floats.npy")


def _refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        for _ in url_filter.entries(str(path), "domains"):
            pass
    return str(error.value)


@pytest.mark.parametrize("name", ["one.txt", "one.gz", "one.tar.gz"])
def test_a_list_with_an_endless_line_is_refused_before_it_is_read(
    tmp_path: Path, name: str
) -> None:
    """300 MB in a line were 306 KB as an archive, and 710 MB of memory."""
    line, path = "a" * (64 << 20), tmp_path / name
    if name.endswith(".tar.gz"):
        tar_of(path, {"c/domains": line})
    else:
        open_ = gzip.open if name.endswith(".gz") else open
        with open_(path, "wt") as file:
            file.write(line)
    del line
    tracemalloc.start()
    try:
        message = _refused(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert message.startswith(f"url.domains = {str(path)!r}: not a readable list: it has a line")


@pytest.mark.parametrize("name", ["one.gz", "one.tar.gz"])
def test_a_list_may_not_unpack_without_end(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_filter, "MAX_LIST_BYTES", 1 << 20)
    text, path = "a.org\n" * 200_000, tmp_path / name
    if name.endswith(".tar.gz"):
        tar_of(path, {"skipped/urls": text, "c/domains": "a.org"})
    else:
        path.write_bytes(gzip.compress(text.encode()))
    assert "it unpacks to over 1048576 bytes" in _refused(path)


def test_an_archive_with_a_huge_header_is_refused(tmp_path: Path) -> None:
    """tarfile reads the headers that may precede a member whole."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("c/domains"))
        archive.addfile(_with_comment("d/domains", 8 << 20))
    assert "it has a header of" in _refused(path)


def _with_comment(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {"comment": "x" * size}
    return info


def test_an_archive_whose_member_has_a_negative_size_ends(tmp_path: Path) -> None:
    """tarfile of Python 3.11 goes back to the first member for ever (CVE-2025-8194)."""
    info = tarfile.TarInfo("c/urls")
    info.size = -512
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    assert "not a readable list" in _refused(path)


@given(st.text(alphabet="ab#. \r\n\x0b\x85\u2028", max_size=60), st.integers(1, 7))
def test_lines_do_not_depend_on_where_a_text_is_cut(text: str, size: int) -> None:
    raw = io.StringIO(text, newline=None).read().split("\n")
    lines = [line.strip() for line in raw]
    expected = [line for line in lines if line and not line.startswith("#")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(url_filter, "MAX_LINE_CHARS", size)
        file = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
        if max(map(len, raw)) <= size:
            assert list(url_filter._entries_of(file)) == expected
