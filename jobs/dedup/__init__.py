"""In: `judged`. Out: `bands`, then `clusters` and `canonical`.

`bands` is a stage; `dedup` is the other and calls, in order, `links` (with `verify`), `components`,
`cross_dump` and `repeated_lines`.
"""
