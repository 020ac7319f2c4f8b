"""WARC and ARC files in, records and HTTP responses out, whatever is damaged.

In the order of the flow: `codecs` (decompressed members), `stream` (their bytes, read forward),
`records` (one `Record` per record or damaged stretch), `http` (status, headers, decoded body).
"""
