"""Run by test_no_code_from_data: files as an attacker writes them, read by our own entry points.

    python tests/attack_files.py FOLDER

FOLDER/in gets the files, FOLDER/outside what none of them may reach. Prints a JSON object: what
became of each file ("read", or the error), and what the interpreter's audit hook saw that no reader
of data does.
"""

# ruff: noqa: E402 (the path is set, and the audit hook, before what is audited is imported)
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

TESTS = Path(__file__).parent
for folder in (str(TESTS.parent), str(TESTS / "trainer")):
    sys.path.insert(0, folder)

import torch
from safetensors.torch import save_file

import conftest  # of tests/trainer
import corpus.recipe
from corpus.chat import encode, formats
from corpus.chat.encode import Conversations
from corpus.clean import contamination, removals
from corpus.filters import classifier, train_classifier
from corpus.text import url_filter
from corpus.text.url_filter import HashedSet
from jobs import cli, extract
from jobs.reports import (
    explain,
    report,
    whatif,
)
from schemas import (
    manifest,
    tokenizer,
)
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError
from tests.listed_shards import listed_as_shard
from trainer import cli as trainer_cli
from trainer.data import loader
from trainer.evaluate import tasks
from trainer.export import hf
from trainer.generate import search
from trainer.model import checkpoint
from trainer.train import run_folder

ROOT = Path(sys.argv[1])
IN, OUTSIDE, CANARY = ROOT / "in", ROOT / "outside", ROOT / "outside" / "canary"
CPU = torch.device("cpu")
SHELL = f"touch {CANARY}"


class Evil:
    """Unpickling it writes the canary."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (SHELL,)


PICKLE = pickle.dumps(Evil())
JINJA = "{{ cycler.__init__.__globals__.os.system('" + SHELL + "') }}"
PYTHON = f"import os\nos.system({SHELL!r})\nclass Config: pass\n"
TEXTS = (
    JINJA, f"$({SHELL})", f"`{SHELL}`", f"| {SHELL}", f"; {SHELL}", "%s%n", "{0.__class__}",
    f"!!python/object/apply:os.system ['{SHELL}']", f"__import__('os').system('{SHELL}')",
    f"{OUTSIDE}/secret", "../../outside/secret", f"file://{OUTSIDE}/secret",
)  # fmt: skip


def torch_file() -> bytes:
    """A .pt file as torch.save writes it, with a pickle that runs a command."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
        archive.writestr("archive/version", "3\n")
    return made.getvalue()


def object_array() -> bytes:
    made = io.BytesIO()
    np.save(made, np.array([Evil()], dtype=object), allow_pickle=True)
    return made.getvalue()


def extension_table(**columns: Any) -> pa.Table:
    """Columns whose type pyarrow once unpickled, under pandas metadata of the same kind."""
    mark = {b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": PICKLE}  # fmt: skip
    arrays = {name: pa.array(values) for name, values in columns.items()}
    fields = [pa.field(name, a.type, metadata=mark) for name, a in arrays.items()]
    about = {b"pandas": json.dumps({"columns": [{"name": "text", "pandas_type": SHELL,
             "numpy_type": "object", "metadata": {"pickle": SHELL}}], "index_columns": [JINJA],
             "creator": {"library": "../../evil"}}).encode()}  # fmt: skip
    return pa.table(list(arrays.values()), schema=pa.schema(fields, metadata=about))


def link_archive(kind: bytes, name: str, target: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        plain = tarfile.TarInfo("a/domains")
        plain.size = 9
        archive.addfile(plain, io.BytesIO(b"a.example"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member, io.BytesIO(b""))
    return made.getvalue()


def safetensors(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


ONE = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
SAFETENSORS = {
    "a pickle": PICKLE,
    "a torch file": torch_file(),
    "a huge header": safetensors(b"{}", 2**63),
    "a header of 100 MB": safetensors(b"{}", 100_000_000),
    "no header": safetensors(b""),
    "nested": safetensors(b'{"a":' * 50_000),
    "overlapping": safetensors(f'{{"a":{ONE},"b":{ONE}}}'.encode(), None, bytes(4)),
    "beyond the end": safetensors(ONE.replace("4]", "400]").join(['{"a":', "}"]).encode()),
    "a shape of 2^64": safetensors(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
        None,
        bytes(4),
    ),
    "python": safetensors(json.dumps({"__metadata__": {"format": SHELL, "x": JINJA}}).encode()),
}
JSONS = {
    "py/object": {"py/object": "os.system", "py/reduce": [SHELL], "model": {"type": JINJA}},
    "a class": {"__class__": "os.system", "kind": "tiktoken", "name": f"{OUTSIDE}/secret"},
    "a path": {"kind": "tiktoken", "name": "../../outside/secret"},
    "a file": {"kind": "huggingface", "name": "x", "tokenizer": f"{OUTSIDE}/secret"},
    "a pattern": {"kind": "bpe", "name": JINJA, "pattern": f"(?{{{SHELL}}})", "tokens": []},
}


def write(name: str, data: bytes | str) -> Path:
    path = IN / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def hugging_face_folder(name: str, model: LanguageModelParts, **more: Any) -> Path:
    """A model folder that asks for code of its own, beside files that hold some."""
    folder = IN / name
    hf.export(model.checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Config"}
    config |= {"trust_remote_code": True, "_name_or_path": f"{OUTSIDE}/secret", **more}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(PYTHON)
    for other in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / other).write_bytes(torch_file())
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told |= {"chat_template": JINJA, "auto_map": {"AutoTokenizer": ["evil.Config", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(JINJA)
    return folder


class LanguageModelParts:
    """A model of a few thousand weights, with its checkpoint."""

    def __init__(self) -> None:
        from trainer.model.model import LanguageModel, ModelConfig
        from trainer.settings import ModelSettings

        self.tokenizer = conftest.tiny_tokenizer()
        shape = ModelSettings(16, 1, 2, 1, 8, 32)
        config = ModelConfig(shape, self.tokenizer.padded_vocab_size, self.tokenizer.boundary, 16)
        self.model = LanguageModel(config)
        self.run = IN / "run"
        checkpoint.save(self.run, 1, self.model, self.tokenizer, {"kind": "pretrain"})
        self.checkpoint = checkpoint.load(self.run, CPU)


def altered_run(name: str, changes: dict[str, bytes]) -> Path:
    """The run with files of its checkpoint replaced, and every hash made right again."""
    from trainer.durable import sha256

    run = IN / name
    folder = run / "step-000001"
    folder.mkdir(parents=True)
    for path in (IN / "run" / "step-000001").iterdir():
        (folder / path.name).write_bytes(changes.get(path.name, path.read_bytes()))
    state = json.loads((folder / "state.json").read_text())
    for known in state["files"]:
        path = folder / known
        state["files"][known] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    state |= {"py/object": "os.system", "files": {**state["files"], "../../outside/secret": {}}}
    (folder / "state.json").write_text(json.dumps(state))
    checkpoint.point(run, "latest", folder)
    return run


Attack = tuple[str, Callable[[], object]]


def attacks() -> list[Attack]:
    """Every file with the reader of it; the files are written now."""
    made: list[Attack] = []
    for number, (name, value) in enumerate(JSONS.items()):
        path = write(f"tokenizer-{number}.json", json.dumps(value))
        made.append((f"tokenizer.json: {name}", lambda path=path: tokenizer.find(str(path))))
    made += recipes() + lists() + texts_and_chats() + arrays() + datasets() + models() + runs()
    return made


def recipes() -> list[Attack]:
    found: list[Attack] = []
    for number, text in enumerate(TEXTS):
        quoted = json.dumps(text)
        path = write(
            f"recipe-{number}.toml",
            f"name = {quoted}\n[url]\ndomains = [{quoted}]\n[decontaminate]\nagainst = [{quoted}]\n"
            f"[refinedweb_lines]\nphrases = [{quoted}]\n[extract]\nlanguage_model = {quoted}\n",
        )
        found.append((f"recipe: {text}", lambda path=path: corpus.recipe.load(path)))
        named = write(f"named-{number}.toml", f"[tokenizer]\nname = {quoted}\n")
        found.append((f"recipe: tokenizer {text}", lambda path=named: corpus.recipe.load(path)))
    path = write("pickle.toml", PICKLE)
    return [*found, ("recipe: a pickle", lambda: corpus.recipe.load(path))]


def lists() -> list[Attack]:
    secret = f"{OUTSIDE}/secret"
    archives = {
        "a symbolic link": link_archive(tarfile.SYMTYPE, "b/domains", secret),
        "a hard link": link_archive(tarfile.LNKTYPE, "b/domains", secret),
        "a parent": link_archive(tarfile.REGTYPE, "../../outside/domains"),
        "an absolute path": link_archive(tarfile.REGTYPE, f"{OUTSIDE}/domains"),
        "a device": link_archive(tarfile.CHRTYPE, "b/domains"),
        "a pipe": link_archive(tarfile.FIFOTYPE, "b/domains"),
        "a pickle": PICKLE,
    }
    found: list[Attack] = []
    for number, (name, data) in enumerate(archives.items()):
        path = str(write(f"list-{number}.tar.gz", data))
        found.append((f"url list: {name}", lambda p=path: list(url_filter.entries(p, "domains"))))
    for number, data in enumerate((PICKLE, torch_file(), "\n".join(TEXTS).encode())):
        path = str(write(f"list-{number}.txt", data))
        found.append(
            (f"url list: text {number}", lambda p=path: list(url_filter.entries(p, "urls")))
        )
        for kind in ("url", "domain", "id"):
            found.append(
                (
                    f"takedown list {number}: {kind}",
                    lambda p=path, k=kind: removals.read_list(Path(p), k),
                )
            )
    paths = write("warc.paths", PICKLE)
    found.append(("paths: a pickle", lambda: extract.resolve((str(paths),))))
    warc = write("pages.warc.gz", torch_file())
    found.append(("warc: a torch file", lambda: extract.resolve((str(warc),))))
    return found


def texts_and_chats() -> list[Attack]:
    known = conftest.tiny_tokenizer()
    row = {"messages": [{"role": "user", "content": JINJA}, {"role": "assistant", "content": SHELL,
           "tool_calls": [{"function": {"name": "os.system", "arguments": {"command": SHELL}}}]}],
           "py/object": "os.system", "chat_template": JINJA}  # fmt: skip
    lines = {"rows": json.dumps(row).encode(), "a pickle": PICKLE, "a torch file": torch_file()}
    found: list[Attack] = []
    for number, (name, data) in enumerate(lines.items()):
        for ending in (".jsonl", ".json", ".jsonl.gz", ".jsonl.zst"):
            packed = {".gz": gzip.compress, "zst": zstandard.compress}.get(ending[-3:], bytes)(data)
            path = write(f"chats-{number}{ending}", packed)
            found.append((f"chats: {name}{ending}", lambda p=path: list(
                encode.read_file(p, known, Conversations()))))  # fmt: skip
        path = write(f"eval-{number}.jsonl", data)
        found += [
            (f"evaluation set: {name}", lambda p=path: list(contamination.read_items(p))),
            (f"task: {name}", lambda p=path: tasks.read_examples(tasks.TASKS["piqa"], p)),
            (f"search: {name}", lambda p=path: search.open_search(p)),
        ]
        folder = write(f"texts-{number}/a.jsonl", data).parent
        (folder / "b.txt").write_bytes(data)
        found.append((f"texts: {name}", lambda p=folder: list(train_classifier.read_texts(p))))
    found.append(("chat row: a class", lambda: formats.read_row(Evil.__dict__)))
    return found


def arrays() -> list[Attack]:
    folder = IN / "arrays"
    hashes = write("arrays/domains.npy", object_array())
    write("arrays/urls.npy", object_array())
    names = [p.name for p in folder.iterdir()]
    write("arrays/lists.json", json.dumps({"hard_words": [], "names": names}))
    compiled = IN / "compiled"
    compiled.mkdir()
    for name in ("domains", "urls"):
        (compiled / f"{name}.npy").write_bytes(object_array())
    (compiled / url_filter._DESCRIPTION).write_text(
        json.dumps({"hard_words": [], "soft_words": [], "substrings": [], "min_soft_words": 2})
    )
    index = IN / "index"
    index.mkdir()
    for name in contamination._ARRAYS:
        (index / f"{name}.npy").write_bytes(object_array())
    (index / contamination._DESCRIPTION).write_text('{"head": 1, "lengths": [], "sets": []}')
    return [
        ("npy: objects", lambda: HashedSet.open(hashes)),
        ("url rules: objects", lambda: url_filter.load(compiled)),
        ("evaluation index: objects", lambda: contamination.load(index)),
    ]


def datasets() -> list[Attack]:
    """Parquet with extension types, in a root and in shards; manifests that point outside."""
    rows = extension_table(text=["a text of words"] * 3, url=[JINJA] * 3, id=["a", "b", "c"])
    parquet = IN / "texts" / "a.parquet"
    parquet.parent.mkdir()
    pq.write_table(rows, parquet)
    write("classifier.bin", PICKLE)
    root = IN / "root"
    found: list[Attack] = [
        ("texts: an extension type", lambda: list(train_classifier.read_texts(parquet.parent))),
        ("classifier: a pickle", lambda: classifier.check_model(
            classifier.QualityClassifier(model=str(IN / "classifier.bin")))),
    ]  # fmt: skip
    for number, name in enumerate(("a.parquet", "../../outside/secret", f"{OUTSIDE}/secret")):
        at = root / str(number)
        write_root(at, name)
        found += [
            (f"root {number}: explain", lambda p=at: explain.explain(p, pc.field("url") == JINJA)),
            (f"root {number}: report", lambda p=at: report.funnel(p)),
            (f"root {number}: whatif", lambda p=at: whatif.ask(p, ["language.min_score=0.5"])),
            (f"root {number}: search", lambda p=at: search.open_search(p)),
            (f"root {number}: shards", lambda p=at: batch_of(p / "shards")),
        ]
    return [*found, *shards()]


def write_root(root: Path, name: str) -> None:
    """Datasets of one file each, `name` in their manifests, its rows of extension types."""
    values = {"text": "a text of words", "url": JINJA, "id": "a", "file_path": f"{OUTSIDE}/secret",
              "record_offset": 0}  # fmt: skip
    columns = {f.name: [values.get(f.name)] for f in DOCUMENTS}
    typed = pa.Table.from_pydict(columns, schema=DOCUMENTS)
    mark = extension_table(a=["a"])
    fields = [f.with_metadata(mark.schema.field(0).metadata) for f in DOCUMENTS]
    rows = typed.cast(pa.schema(fields, metadata=mark.schema.metadata))
    made = dict[str, str]()
    for dataset in ("documents", "judged", "canonical", "shards"):
        folder = root / dataset
        folder.mkdir(parents=True)
        pq.write_table(rows, folder / "a.parquet")
        size = (folder / "a.parquet").stat().st_size
        file, extra = manifest.DataFile("a.parquet", 1, size), manifest.Extra()
        if dataset == "shards":
            file, extra = listed_as_shard(file, JINJA)
        told = manifest.Manifest(dataset, JINJA, {}, dict(made), (file,), {"kept": 1}, extra,
                                 {"seconds": 1.0, "engine": JINJA})  # fmt: skip
        made[dataset] = told.fingerprint
        manifest.write(folder, told)
        path = folder / manifest.MANIFEST_FILE
        path.write_text(path.read_text().replace('"a.parquet"', json.dumps(name)))


def batch_of(folder: Path) -> object:
    return loader.Loader([folder], seq_len=8, rows=1, cache=IN / "cache").batch(0)


def shards() -> list[Attack]:
    """Shards with other files in place of their own, every size and hash made right again."""
    source = conftest.write_shards(
        IN / "shards", conftest.make_documents(20), conftest.tiny_tokenizer()
    )
    assert batch_of(source) is not None
    found: list[Attack] = []
    extended = pa.BufferOutputStream()
    pq.write_table(extension_table(tokens=[[1]], id=["a"]), extended)
    kinds = {
        "objects": (".npy", object_array()),
        "a pickle": (".parquet", PICKLE),
        "a torch file": (".parquet", torch_file()),
        "extension types": (".parquet", extended.getvalue().to_pybytes()),
        "a tokenizer": (".json", PICKLE),
    }
    for name, (suffix, data) in kinds.items():
        at = copied(source, IN / f"shards {name}", suffix, data)
        found.append((f"shards: {name}", lambda p=at: batch_of(p)))
    for number, name in enumerate(("../../outside/secret", f"{OUTSIDE}/secret", "..")):
        at = copied(source, IN / f"shards-{number}", "", b"")
        path = at / manifest.MANIFEST_FILE
        told = json.loads(path.read_text())
        for file in told["files"]:
            file["extra"]["lengths"]["name"] = name
        path.write_text(json.dumps(told))
        found.append((f"shards: lengths {name}", lambda p=at: batch_of(p)))
        other = copied(source, IN / f"shards-tokenizer-{number}", "", b"")
        path = other / manifest.MANIFEST_FILE
        told = json.loads(path.read_text())
        told["extra"]["tokenizer"]["file"] = name
        path.write_text(json.dumps(told))
        found.append((f"shards: tokenizer {name}", lambda p=other: batch_of(p)))
    return found


def copied(source: Path, folder: Path, suffix: str, data: bytes) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        swapped = path.suffix == suffix and path.name != manifest.MANIFEST_FILE
        (folder / path.name).write_bytes(data if swapped else path.read_bytes())
    path = folder / manifest.MANIFEST_FILE
    told = json.loads(path.read_text())
    for file in told["files"]:
        content = (folder / file["name"]).read_bytes()
        file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        lengths = file["extra"]["lengths"]
        lengths["sha256"] = hashlib.sha256((folder / lengths["name"]).read_bytes()).hexdigest()
    told["extra"]["content_hash"] = conftest.content_hash(told)
    path.write_text(json.dumps(told))
    return folder


def models() -> list[Attack]:
    parts = LanguageModelParts()
    folder = hugging_face_folder("hf", parts)
    found: list[Attack] = [("hugging face: code of its own", lambda: hf.load(folder, CPU))]
    for number, (name, data) in enumerate(SAFETENSORS.items()):
        at = hugging_face_folder(f"hf-{number}", parts)
        (at / "model.safetensors").write_bytes(data)
        found.append((f"hugging face: {name}", lambda p=at: hf.load(p, CPU)))
        run = altered_run(f"run-{number}", {"model.safetensors": data})
        found.append((f"checkpoint: {name}", lambda p=run: checkpoint.load(p, CPU)))
        other = altered_run(f"optimizer-{number}", {"optimizer.safetensors": data})
        found.append((f"optimizer: {name}", lambda p=other: checkpoint.load_optimizer(
            *checkpoint.find(p))))  # fmt: skip
    save_file({"a": torch.zeros(1)}, OUTSIDE / "secret.safetensors")
    secret = "outside/secret.safetensors"
    names = (f"../{secret}", f"../../{secret}", f"{ROOT}/{secret}", "..", ".")
    for number, name in enumerate(names):
        at = hugging_face_folder(f"index-{number}", parts)
        (at / "model.safetensors").unlink()
        (at / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        found.append((f"index: {name}", lambda p=at: hf.load(p, CPU)))
    huge: list[dict[str, Any]] = [
        {"hidden_size": 10**20},
        {"vocab_size": 10**12},
        {"num_hidden_layers": 10**6},
        {"hidden_size": 2**20, "intermediate_size": 2**20, "num_hidden_layers": 10**4},
        {"max_position_embeddings": 2**40},
    ]
    for number, change in enumerate(huge):
        at = hugging_face_folder(f"huge-{number}", parts, **change)
        found.append((f"config: {change}", lambda p=at: hf.load(p, CPU)))
        config = (at / "config.json").read_bytes()
        run = altered_run(f"huge-run-{number}", {"config.json": config})
        found.append((f"checkpoint: {change}", lambda p=run: checkpoint.load(p, CPU)))
    return found


def runs() -> list[Attack]:
    found: list[Attack] = []
    outer = OUTSIDE / "step-000001"
    outer.mkdir()
    for path in (IN / "run" / "step-000001").iterdir():
        (outer / path.name).write_bytes(path.read_bytes())
    digest = json.loads((IN / "run" / "latest").read_text())["state_sha256"]
    pointers = ("..", ".", "../../outside/step-000001", str(outer), "step-000001/../..", "run\0")
    for number, name in enumerate(pointers):
        run = IN / f"pointer-{number}"
        run.mkdir()
        (run / "latest").write_text(json.dumps({"folder": name, "state_sha256": digest}))
        found.append((f"pointer: {name!r}", lambda p=run: checkpoint.load(p, CPU)))
    log = IN / "logged"
    log.mkdir()
    (log / run_folder.LOG_FILE).write_bytes(PICKLE + b"\n")
    return [*found, ("log: a pickle", lambda: run_folder.read_log(log))]


def commands() -> list[Attack]:
    """The command lines themselves, on the same files."""
    root, run = str(IN / "root" / "1"), str(IN / "pointer-2")
    recipe, prompt = str(IN / "recipe-0.toml"), ["--prompt", JINJA]
    return [
        ("gristmill report", lambda: cli.main(["report", "--root", root])),
        ("gristmill explain", lambda: cli.main(["explain", "--root", root, "--url", JINJA])),
        ("gristmill filter", lambda: cli.main(["filter", "--recipe", recipe, "--root", root])),
        ("trainer sample", lambda: trainer_cli.main(["sample", "--checkpoint", run, *prompt])),
        ("trainer eval", lambda: trainer_cli.main(["eval", "--checkpoint", run, "--shards", root])),
        ("trainer show-batch", lambda: trainer_cli.main(["show-batch", "--shards", root])),
    ]


class Watch:
    """The audit hook: what of the interpreter's events no reader of data causes."""

    FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.spawn",
                 "subprocess.Popen", "socket.connect", "socket.bind", "marshal.load", "os.fork",
                 "ctypes.dlopen", "webbrowser.open", "shutil.unpack_archive")  # fmt: skip
    CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
               "os.truncate", "shutil.rmtree", "os.chmod")  # fmt: skip

    def __init__(self) -> None:
        self.armed, self.seen = "", list[str]()
        self.inside, self.outside = os.path.realpath(IN), os.path.realpath(OUTSIDE)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.armed and self._is_wrong(event, arguments):
            self.seen.append(f"{self.armed}: {event} {arguments!r:.200}")

    def _is_wrong(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            return self._is_outside(path) or bool(writes and not self._is_inside(path))
        if event in self.CHANGES:
            return not self._is_inside(arguments[0])
        if event == "exec":
            return self._is_data(arguments[0].co_filename)
        if event == "import":
            return bool(arguments[1]) and self._is_data(arguments[1])
        return event in self.FORBIDDEN

    def _is_inside(self, path: Any) -> bool:
        at = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes | Path) else "/"
        return at == os.devnull or at.startswith(f"{self.inside}{os.sep}")

    def _is_outside(self, path: Any) -> bool:
        return os.path.realpath(os.fsdecode(path)).startswith(self.outside)

    def _is_data(self, path: Any) -> bool:
        return str(path).startswith(str(ROOT))


def main() -> None:
    """Write the files, read them under watch, print what came of it."""
    IN.mkdir(parents=True)
    OUTSIDE.mkdir()
    (OUTSIDE / "secret").write_text("a secret\n")
    todo = [*attacks(), *commands()]
    os.chdir(IN)
    watch, became = Watch(), dict[str, str]()
    sys.addaudithook(watch)
    (IN / "armed").write_text("")
    for name, read in todo:
        watch.armed = name
        try:
            read()
            became[name] = "read"
        except Exception as error:
            became[name] = f"{type(error).__name__}: {error}"
            if isinstance(error, UserError):
                became[name] = f"UserError: {error}"
        watch.armed = ""
    (IN / "disarmed").write_text("")
    # The hook is shown to see what it looks for.
    watch.armed = "planted"
    planted: list[Callable[[], object]] = [
        lambda: sys.audit("pickle.find_class", "pathlib", "Path"),  # as unpickling does
        lambda: (OUTSIDE / "secret").read_text(),
        lambda: os.system("true"),
    ]  # fmt: skip
    for number, act in enumerate(planted):
        before = len(watch.seen)
        act()
        assert len(watch.seen) > before, number
    watch.armed = ""
    seen = [line for line in watch.seen if not line.startswith("planted")]
    left = sorted(p.name for p in OUTSIDE.iterdir())
    print(json.dumps({"became": became, "seen": seen, "outside": left}))


if __name__ == "__main__":
    main()
