"""`python -m batchscale`: see batchscale/cli.py."""

from batchscale.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
