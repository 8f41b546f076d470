"""Former name of ``utils.results.export``: ``python -m utils.export`` and ``from utils.export import load_export``."""

from utils.results.export import load_export, main

__all__ = ["load_export"]

if __name__ == "__main__":
    main()
