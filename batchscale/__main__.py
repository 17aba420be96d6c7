"""`python -m batchscale`: see batchscale/cli.py."""

if __name__ == "__main__":
    try:
        from batchscale.cli import main

        raise SystemExit(main())
    except KeyboardInterrupt:  # while modules were being imported, or a third one on the way out
        raise SystemExit(130) from None
