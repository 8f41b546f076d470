"""Corpora: from files to batches. Constants needed to parse flags are here, since this module imports nothing heavy."""

import re

from utils.methods import JOINT

# Bounds of an utterance's duration in seconds: wav2vec2's receptive field is 25 ms, and KEMDy's longest utterance lasts 35 s.
SECONDS = (0.025, 120)
# The parts of a fold.
SPLITS = ("train", "valid", "test")


def is_corpus_name(name):
    """Return whether a folder name is a valid corpus name. Runs on several corpora join their names with +."""
    return bool(name) and not name.startswith(".") and name != JOINT and not re.search(r"[+/\x00-\x1f\x7f]", name)
