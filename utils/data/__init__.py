"""Corpora: from files to batches. What parsing flags must know of them is said here, where nothing is imported."""

# Seconds that one utterance can last: wav2vec2 sees 25 ms at once, and KEMDy's longest lasts 35 s.
SECONDS = (0.025, 120)
# The parts of a fold.
SPLITS = ("train", "valid", "test")
