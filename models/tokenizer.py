"""Sentences → token ids, right for KoBERT under today's transformers.

KoBERT ships a SentencePiece vocabulary and a tokenizer class of its own. The automatic classes of transformers 5 load
that vocabulary without a warning and break every Hangul syllable into jamo, nearly all unknown: the model reads noise.
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
# What tokenizers treat differently: case, accents, digits, white space, composition, widths, what no vocabulary has.
PROBE = (
    *("오늘 정말 기분이 좋아요!", unicodedata.normalize("NFD", "버스가 늦게 왔어요, 화가 났어."), "ㅋㅋㅋ ㅠㅠ 그래서…"),
    *("It's a naïve CAFÉ in Zürich", unicodedata.normalize("NFD", "naïve CAFÉ"), "KEMDy20 3.14 ２０ 中文字"),
    *("  two  spaces\ttab\nline\u3000wide\u200bnone ", "[MASK] <unk> \U0010fffd \ufffd"),
)


class SentencePieceTokenizer:
    """A SentencePiece vocabulary with BERT's special tokens, called like a tokenizer of transformers.

    Args:
        path: the ``spiece.model`` file, with pieces [PAD], [CLS] and [SEP] in it.

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
            truncation: cut to ``max_length`` tokens, [CLS] and [SEP] included.

        Returns:
            ``{"input_ids": ..., "attention_mask": ...}``, lists of lists.
        """
        room = max_length - 2 if truncation else None
        input_ids = [[self.cls_token_id, *pieces[:room], self.sep_token_id] for pieces in self.processor.encode(list(texts))]
        return {"input_ids": input_ids, "attention_mask": [[1] * len(ids) for ids in input_ids]}


def load_tokenizer(name_or_folder):
    """Load a text encoder's tokenizer by hub name (``@revision`` if wanted) or folder.

    Returns:
        A callable: a list of sentences in, ``input_ids`` and ``attention_mask`` out, with a ``pad_token_id``.

    Raises:
        UserError: if it cannot be loaded; the line says how to download it and how to name a folder.
    """
    named = str(name_or_folder)
    name, revision = split_revision(named)
    with user_error_on_load_failure("text", named):
        spiece = find_file(named, SENTENCEPIECE)
        if spiece is not None:
            tokenizer = SentencePieceTokenizer(spiece)
            # [UNK] is the answer for pieces that a vocabulary lacks: ALBERT's and XLNet's name theirs otherwise.
            if tokenizer.unk_token_id not in (tokenizer.cls_token_id, tokenizer.sep_token_id):
                return tokenizer
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # transformers makes a tokenizer of special tokens alone where a vocabulary is missing: all text is [UNK] to it.
        raise UserError(f"--text_model {named}: its vocabulary is missing (vocab.txt, tokenizer.json or spiece.model)")
    return tokenizer


def tokenizer_files(tokenizer):
    """The files of a tokenizer, ``{name: bytes}``, without a path in them."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return {SENTENCEPIECE: tokenizer.processor.serialized_model_proto()}
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def tokenizer_from_files(files):
    """The tokenizer of what ``tokenizer_files`` returned.

    Raises:
        UserError: if it cannot be loaded from them.
    """
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, Path(name).name).write_bytes(content)
        return load_tokenizer(folder)


def tokenizer_digest(tokenizer):
    """SHA-256 of what tells one tokenizer from another: its vocabulary, its special tokens, and what it makes of text."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return hashlib.sha256(tokenizer.processor.serialized_model_proto()).hexdigest()
    vocabulary = tokenizer.get_vocab()
    special = [getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "pad", "cls", "sep")]
    # Its own words too: to a small vocabulary all of PROBE may be unknown.
    words = sorted(vocabulary)[:: len(vocabulary) // 1000 + 1]
    texts = [*PROBE, *(" ".join(words[start : start + 10]) for start in range(0, len(words), 10))]
    encoded = [tokenizer(texts, **cut)["input_ids"] for cut in ({}, {"truncation": True, "max_length": 5})]
    return hashlib.sha256(json.dumps([sorted(vocabulary.items()), special, encoded]).encode()).hexdigest()
