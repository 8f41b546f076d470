"""``python -m utils.kemdy data/KEMDy19``, the former name of ``python -m utils.data.audit``."""

from utils.data.audit import main

if __name__ == "__main__":
    main()
