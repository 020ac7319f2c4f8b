"""In: stored rows and a recipe. Out: which gate or rule decided, and what others would decide.

`decisions` lists every gate and rule for one page; `verdicts` judges stored rows again.
"""
