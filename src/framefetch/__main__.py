"""``python -m framefetch`` is the command line."""

from __future__ import annotations

from framefetch.ui.cli import main

if __name__ == "__main__":
    main()
