"""Chat files -> token ids with a loss mask.

In the order of the flow: `files` cuts a file into rows, `formats` reads the conversation of a row,
`encode` makes its tokens, mask and shard row. The grammar is in `schemas.chat`.
"""
