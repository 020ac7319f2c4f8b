"""`python -m trainer` and `torchrun -m trainer`."""

from trainer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
