"""``python -m kullback.cli``."""

from kullback.cli import main

if __name__ == "__main__":
    main()
