"""Extracted text -> text that may be trained on: personal data, test sets and takedowns.

Each module is independent: `pii` scrubs a text, `contamination` finds documents that hold
evaluation texts, `removals` reads takedown requests and finds and blanks the rows that they mean.
"""
