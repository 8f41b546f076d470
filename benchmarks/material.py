"""Noise corpora with KEMDy's file structure, and encoders with random weights: for measuring, with nothing to learn."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from utils.data.audio import SAMPLE_RATE
from utils.data.kemdy import EMOTIONS
from utils.files import SYNTHETIC_MARKER

DIFFERENT_WAVS = 64
SESSIONS = 10
SMALL_TEXT = dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192)
SMALL_SPEECH = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
VOCABULARY = 8002


def make_corpus(root, name, utterances, seed=1):
    """Write KEMDy19 or KEMDy20 with wavs of 3 to 6 s: links to a few files, which are read as if they were all different."""
    generator = np.random.default_rng(seed)
    (root / "annotation").mkdir(parents=True)
    (root / SYNTHETIC_MARKER).write_text("Noise, for measurements.\n")
    originals = [root / f"{number}.wav" for number in range(DIFFERENT_WAVS)]
    for path in originals:
        samples = generator.normal(scale=0.1, size=int(generator.uniform(3, 6) * SAMPLE_RATE))
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    rows = {}
    for number in range(utterances):
        session, sex = number % SESSIONS + 1, "FM"[number // SESSIONS % 2]
        script, serial = divmod(number // SESSIONS, 1000)
        if name == "KEMDy19":
            speaker, file = sex, f"Session{session:02d}_{sex}_res.csv"
        else:
            speaker, file = f"User{session:03d}{sex}_", f"Sess{session:02d}_eval.csv"
        segment_id = f"Sess{session:02d}_script{script + 1:02d}_{speaker}{serial:03d}"
        rows.setdefault(file, []).append((segment_id, EMOTIONS[number % len(EMOTIONS)]))
        folder = root / "wav" / f"Session{session:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(originals[number % DIFFERENT_WAVS], folder / f"{segment_id}.wav")
        text = " ".join(map(str, generator.integers(1000, VOCABULARY, size=generator.integers(5, 25))))
        (folder / f"{segment_id}.txt").write_text(text, encoding="utf-8")
    for file, labels in rows.items():
        lines = ["Segment ID,Total Evaluation", ",Emotion", *(",".join(row) for row in labels)]
        (root / "annotation" / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class NumberTokenizer:
    """Encodes the corpora's texts, which are token ids, with the interface of ``models.load_tokenizer``'s tokenizers."""

    pad_token_id: int = 1
    unk_token_id: int = 0

    def __call__(self, texts, truncation=True, max_length=256):
        return {"input_ids": [[2, *map(int, text.split())][: max_length - 1] + [3] for text in texts]}


def make_encoders(small, attention):
    """(text encoder, speech encoder) with random weights, full-size or small."""
    text, speech = (SMALL_TEXT, SMALL_SPEECH) if small else ({}, {})
    text = BertModel(BertConfig(vocab_size=VOCABULARY, attn_implementation=attention, **text))
    speech = Wav2Vec2Model(Wav2Vec2Config(layerdrop=0.0, attn_implementation=attention, **speech))
    for encoder, fingerprint in ((text, "0" * 64), (speech, "1" * 64)):
        encoder.provenance = {"fingerprint": fingerprint, "name": "random", "synthetic": True}
    return text, speech


def corpus_paths(folder):
    """``{name: path}`` of a benchmark's two corpora."""
    return {name: Path(folder) / name for name in ("KEMDy19", "KEMDy20")}
