"""``python -m depprobe`` is the ``depprobe`` command."""

from depprobe.cli import main

if __name__ == "__main__":
    main()
