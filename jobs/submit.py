"""The entry point for spark-submit, with the subcommands and flags of `gristmill`.

    spark-submit --master yarn jobs/submit.py run --recipe recipes/fineweb.toml ...

spark-submit puts this folder first on `sys.path`: no module in it may be named like one of the
standard library.
"""

from jobs.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
