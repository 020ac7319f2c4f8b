"""In: the datasets of a root. Out: what became of records and pages, for people.

`report` (all records), `explain` (one page), `where` (where it is), `whatif` (other settings).
"""
