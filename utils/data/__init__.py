"""Corpora: from files to batches. What parsing flags must know of them is said here, where nothing heavy is imported."""

import re

from utils.methods import JOINT

# Seconds that one utterance can last: wav2vec2 sees 25 ms at once, and KEMDy's longest lasts 35 s.
SECONDS = (0.025, 120)
# The parts of a fold.
SPLITS = ("train", "valid", "test")


def is_corpus_name(name):
    """Can a folder's name be that of a corpus? Runs of several corpora are named by joining theirs with +."""
    return bool(name) and not name.startswith(".") and name != JOINT and not re.search(r"[+/\x00-\x1f\x7f]", name)
