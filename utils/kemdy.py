"""Former name of ``utils.data.audit``: ``python -m utils.kemdy data/KEMDy19``."""

from utils.data.audit import main

if __name__ == "__main__":
    main()
