"""The columns of every dataset, once. Each stage's output is checked against them.

A row's key is (`file_path`, `record_offset`); `id` is WARC-Record-ID, or a UUIDv5 of the key where
the record has none. `canonical` starts with the columns that FineWeb publishes.
"""

from __future__ import annotations

import pyarrow as pa

KEY = ("file_path", "record_offset")


def column(name: str, type_: pa.DataType, doc: str) -> pa.Field:
    """A column with its documentation, which travels in the Parquet file's schema."""
    return pa.field(name, type_, metadata={"doc": doc})


_FINEWEB = [
    column("text", pa.string(), "main text; null where the row was rejected"),
    column("id", pa.string(), "WARC-Record-ID, or a UUIDv5 of the row's key"),
    column("dump", pa.string(), "crawl the file belongs to, e.g. CC-MAIN-2024-10; '' if unknown"),
    column("url", pa.string(), "WARC-Target-URI; null for a damaged record"),
    column("date", pa.string(), "WARC-Date as written (ISO 8601)"),
    column("file_path", pa.string(), "WARC file: from 'crawl-data/' on, else its file name"),
    column("language", pa.string(), "ISO 639 code by lid.176; null without text"),
    column("language_score", pa.float64(), "probability of `language`, 0 to 1"),
]

_PROVENANCE = [
    column("record_offset", pa.int64(), "byte offset of the record (or gzip member) in its file"),
    column("record_length", pa.int64(), "bytes it takes in the file; null where unknown"),
    column("payload_digest", pa.string(), "WARC-Payload-Digest, else SHA-1 of the HTTP body"),
    column("http_status", pa.int32(), "HTTP status code; null where there is no HTTP header"),
    column("content_type", pa.string(), "MIME type that decided: identified, header, or sniffed"),
    column("charset", pa.string(), "encoding that the body was decoded with"),
    column("html_bytes", pa.int64(), "bytes of the body after content decoding"),
    column("truncated", pa.bool_(), "the crawler cut the body (WARC-Truncated)"),
    column("noai", pa.bool_(), "robots meta or X-Robots-Tag says noai or noimageai"),
    column("tdm_reservation", pa.bool_(), "text and data mining reserved (TDMRep), meta or header"),
    column("x_robots_tag", pa.string(), "X-Robots-Tag header as sent"),
    column("extractor", pa.string(), "engine and version that made the text"),
]

_LOOK = [
    column("look_chars", pa.int64(), "characters of the look's text; null where it did not look"),
    column("look_language", pa.string(), "most probable language of that text; '' without text"),
    column("look_score", pa.float64(), "probability of the wanted languages together, 0 to 1"),
    column("look_passage_chars", pa.int64(), "in passages in them; null where the score sufficed"),
]

_VERDICT = [
    column("rejected_by", pa.string(), "first rule broken, in recipe order; null where kept"),
    column("detail", pa.string(), "what exactly was wrong, for a person; null where kept"),
]

DOCUMENTS = pa.schema(_FINEWEB + _PROVENANCE + _LOOK + _VERDICT)


def judged_schema(signals: pa.Schema) -> pa.Schema:
    """`documents` plus one nullable column a signal; null where the row has no extracted text."""
    return pa.schema(list(DOCUMENTS) + list(signals))


BANDS = pa.schema(
    [
        column("node", pa.int64(), "64-bit hash of the row's key: the document in the graph"),
        column("id", pa.string(), "document id"),
        column("file_path", pa.string(), "key of the row in `judged`"),
        column("record_offset", pa.int64(), "key of the row in `judged`"),
        column("num_chars", pa.int64(), "characters of the text"),
        column("rank", pa.string(), "the survivor policy keeps the smallest of a cluster"),
        column("text_hash", pa.int64(), "hash of the normalised text, for exact duplicates"),
        column("url_hash", pa.int64(), "hash of the URL without its fragment; null without URL"),
        column("payload_hash", pa.int64(), "hash of the payload digest; null where there is none"),
        column("num_shingles", pa.int64(), "distinct shingles; 0: too short for a signature"),
        column("bands", pa.list_(pa.int64()), "one hash a band; empty without a signature"),
    ]
)

CLUSTERS = pa.schema(
    [
        column("node", pa.int64(), "document in the graph"),
        column("id", pa.string(), "document id"),
        column("file_path", pa.string(), "key of the row in `judged`"),
        column("record_offset", pa.int64(), "key of the row in `judged`"),
        column("cluster", pa.int64(), "the smallest node of the connected component"),
        column("cluster_size", pa.int64(), "documents in the component"),
        column(
            "duplicate_of", pa.string(), "id of the document that stays for it; null: none does"
        ),
        column("duplicate_node", pa.int64(), "that document's node (ids can repeat)"),
        column("duplicate_root", pa.string(), "the earlier root that holds it; null: this one"),
        column("duplicate_kind", pa.string(), "why it was dropped; null where it stays"),
    ]
)

# Working datasets of dedup, gone when it ends.
SHINGLES = pa.schema([("node", pa.int64()), ("shingles", pa.list_(pa.int64()))])
PAIRS_TO_COMPARE = pa.schema(
    [
        ("a", pa.int64()),
        ("b", pa.int64()),
        ("shingles_a", pa.list_(pa.int64())),
        ("shingles_b", pa.list_(pa.int64())),
    ]
)
JACCARD = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("similarity", pa.float64())])

# In the order of the recipe's section [pii]; 0 where a kind is kept.
PII_KINDS = ("emails", "ips", "phones", "cards", "ssns", "api_keys", "private_keys")
_PII = pa.struct([pa.field(kind, pa.int64()) for kind in PII_KINDS])

CANONICAL = pa.schema(
    [
        *_FINEWEB,
        *_PROVENANCE[:2],
        column("cluster", pa.int64(), "the cluster that it stands for (`clusters.cluster`)"),
        column("cluster_size", pa.int64(), "documents that this one stands for, itself included"),
        column("pii", _PII, "pieces of personal data replaced or dropped in `text`, by kind"),
    ]
)

# What becomes `canonical` once passages are cut out (`removed`: their numbers) and it is scrubbed.
SURVIVORS = pa.schema(
    [*[field for field in CANONICAL if field.name != "pii"], ("removed", pa.list_(pa.int32()))]
)

CONTAMINATION = pa.schema(
    [
        column("id", pa.string(), "document id"),
        column("file_path", pa.string(), "key of the row in `canonical`"),
        column("record_offset", pa.int64(), "key of the row in `canonical`"),
        column("url", pa.string(), "where the page was"),
        column("set", pa.string(), "evaluation set that the document has texts of"),
        column("num_matches", pa.int64(), "different runs of words that both have"),
        column("items", pa.list_(pa.int32()), "items found, by their place in the set from 0"),
        column("example", pa.string(), "the first run of words that both have, normalised"),
        column("action", pa.string(), "drop: the document is left out of shards; or flag"),
    ]
)

FORGOTTEN = pa.schema(
    [
        column("by", pa.string(), "url, domain or id: what kind of request it is"),
        column("value", pa.string(), "what was asked for, as it was written"),
        column("id", pa.string(), "document that it matched; null in the request's own row"),
        column("url", pa.string(), "its URL"),
        column("file_path", pa.string(), "key of the row in `documents`"),
        column("record_offset", pa.int64(), "key of the row in `documents`"),
        column("cluster", pa.int64(), "cluster that it stood in; null where it stood in none"),
        column("forgotten_at", pa.string(), "when it was asked for, or matched (ISO 8601, UTC)"),
    ]
)


def list_of(type_: pa.DataType) -> pa.DataType:
    """A list that holds no nulls: Parquet stores, and a reader decodes, one level less a value."""
    return pa.list_(pa.field("element", type_, nullable=False))


SHARD_FORMAT = 2  # changes with the columns of a shard or the meaning of their values
SHARDS = pa.schema(
    [
        column("tokens", list_of(pa.int32()), "document boundary, then the text's token ids"),
        column("token_count", pa.int64(), "length of `tokens`"),
        column("id", pa.string(), "document id"),
        column("url", pa.string(), "where the page was"),
        column("file_path", pa.string(), "WARC file of the page"),
        column("record_offset", pa.int64(), "its byte offset there"),
    ]
)

LOSS_MASK = column("loss_mask", list_of(pa.uint8()), "1 where the token is a target, else 0")

# Shards of conversations; their place is that of a line in its file.
CONVERSATION_SHARDS = pa.schema([SHARDS.field(0), LOSS_MASK, *list(SHARDS)[1:]])

DATASETS = {
    "documents": DOCUMENTS,
    "bands": BANDS,
    "clusters": CLUSTERS,
    "canonical": CANONICAL,
    "contamination": CONTAMINATION,
    "shards": SHARDS,
    "forgotten": FORGOTTEN,
}
