"""``python -m mmkdprune``: the command ``mmkdprune``."""

from mmkdprune.cli.main import main

if __name__ == "__main__":
    main()
