"""Records in, rows of `documents` out: main text, language, or the reason of a rejection.

In the order of the flow: `extract_page` (all gates, in order), `url_filter`, `charset`, `opt_out`,
`prescreen` (with `language_id`), `main_text` (with `limits`), `fast_trafilatura`, `clean_unicode`.
"""
