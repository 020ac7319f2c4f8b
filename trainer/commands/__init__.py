"""In: parsed flags. Out: files of a run or an export, or text on the terminal.

Each module is one command with its flags and its output; `flags` holds what they share. In order of
use: `show_batch`, `train`, `evaluate`, `where`, `sample`, `chat`, `export`.
"""
