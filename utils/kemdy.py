"""``python -m utils.kemdy data/KEMDy19``, the former name of ``python -m utils.data.audit``."""

from utils.data.kemdy import main

if __name__ == "__main__":
    main()
