"""Sentences → token ids, correct for KoBERT with current transformers.

KoBERT ships a SentencePiece vocabulary and its own tokenizer class. The auto classes of transformers 5 load that vocabulary
without a warning and split every Hangul syllable into jamo, nearly all unknown: the model's input is noise.
"""

import hashlib
import json
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece
from transformers import AutoTokenizer

from models.errors import UserError
from models.hub import find_file, split_revision, user_error_on_load_failure

SENTENCEPIECE = "spiece.model"
# Text that tokenizers treat differently: case, accents, digits, white space, composition, widths, unknown characters.
PROBE = (
    *("오늘 정말 기분이 좋아요!", unicodedata.normalize("NFD", "버스가 늦게 왔어요, 화가 났어."), "ㅋㅋㅋ ㅠㅠ 그래서…"),
    *("It's a naïve CAFÉ in Zürich", unicodedata.normalize("NFD", "naïve CAFÉ"), "KEMDy20 3.14 ２０ 中文字"),
    *("  two  spaces\ttab\nline\u3000wide\u200bnone ", "[MASK] <unk> \U0010fffd \ufffd"),
)


class SentencePieceTokenizer:
    """A SentencePiece vocabulary with BERT's special tokens and the call interface of a transformers tokenizer.

    Args:
        path: the ``spiece.model`` file, which includes the pieces [PAD], [CLS] and [SEP].

    Attributes:
        unk_token_id, pad_token_id, cls_token_id, sep_token_id: ids of the special tokens.
    """

    def __init__(self, path):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.unk_token_id = self.processor.unk_id()
        ids = (self.processor.piece_to_id(piece) for piece in ("[PAD]", "[CLS]", "[SEP]"))
        self.pad_token_id, self.cls_token_id, self.sep_token_id = ids

    def __len__(self):
        return self.processor.get_piece_size()

    def __call__(self, texts, truncation=False, max_length=None):
        """Encode sentences as [CLS] … [SEP].

        Args:
            texts: a list of sentences.
            truncation: truncate to ``max_length`` tokens, including [CLS] and [SEP].

        Returns:
            ``{"input_ids": ..., "attention_mask": ...}``, lists of lists.
        """
        room = max_length - 2 if truncation else None
        input_ids = [[self.cls_token_id, *pieces[:room], self.sep_token_id] for pieces in self.processor.encode(list(texts))]
        return {"input_ids": input_ids, "attention_mask": [[1] * len(ids) for ids in input_ids]}


def load_tokenizer(name_or_folder):
    """Load a text encoder's tokenizer by hub name (``@revision`` if wanted) or folder.

    Returns:
        A callable that maps a list of sentences to ``input_ids`` and ``attention_mask``, with a ``pad_token_id``.

    Raises:
        UserError: if it cannot be loaded.
    """
    named = str(name_or_folder)
    name, revision = split_revision(named)
    with user_error_on_load_failure("text", named):
        spiece = find_file(named, SENTENCEPIECE)
        if spiece is not None:
            tokenizer = SentencePieceTokenizer(spiece)
            # Missing pieces are mapped to [UNK]: ALBERT and XLNet name [CLS] and [SEP] differently.
            if tokenizer.unk_token_id not in (tokenizer.cls_token_id, tokenizer.sep_token_id):
                return tokenizer
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # Without a vocabulary transformers builds a tokenizer of special tokens only, and all text becomes [UNK].
        raise UserError(f"--text_model {named}: its vocabulary is missing (vocab.txt, tokenizer.json or spiece.model)")
    return tokenizer


def tokenizer_files(tokenizer):
    """The files of a tokenizer, ``{name: bytes}``, without local paths."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return {SENTENCEPIECE: tokenizer.processor.serialized_model_proto()}
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def tokenizer_from_files(files):
    """Load a tokenizer from the result of ``tokenizer_files``.

    Raises:
        UserError: if that fails.
    """
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, Path(name).name).write_bytes(content)
        return load_tokenizer(folder)


def tokenizer_digest(tokenizer):
    """SHA-256 that identifies a tokenizer: vocabulary, special tokens, and its encoding of sample texts."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return hashlib.sha256(tokenizer.processor.serialized_model_proto()).hexdigest()
    vocabulary = tokenizer.get_vocab()
    special = [getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "pad", "cls", "sep")]
    # Vocabulary entries too: all of PROBE may be unknown to a small vocabulary.
    words = sorted(vocabulary)[:: len(vocabulary) // 1000 + 1]
    texts = [*PROBE, *(" ".join(words[start : start + 10]) for start in range(0, len(words), 10))]
    encoded = [tokenizer(texts, **cut)["input_ids"] for cut in ({}, {"truncation": True, "max_length": 5})]
    return hashlib.sha256(json.dumps([sorted(vocabulary.items()), special, encoded]).encode()).hexdigest()
