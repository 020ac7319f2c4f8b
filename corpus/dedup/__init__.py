"""In: texts that the filters keep. Out: clusters of duplicates, and which document of each stays.

word_hashes.py, then minhash.py and exact.py (the hashes of `bands`), union_find.py (clusters),
survivor.py (ranks), precision_recall.py (an estimate from exact pairs), line_hashes.py (passages).
"""
