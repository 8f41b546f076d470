"""What makes a run this very run: the arguments that matter, corpora, encoders and starting model, each by its content.

Resuming, skipping, averaging and starting from a model all compare what is said here, and nothing else. No torch: evaluation
reads it too.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, read_json, run_folder, sha256, write_json
from utils.methods import task_folder

# Flags that say where and how fast a run is made, or what it is called, not what comes out of it (but for rounding).
WITHOUT_EFFECT = (
    *("experiment", "trial_of", "output_root", "cpu", "num_workers", "overwrite", "keep_last", "log_with"),
    *("no_speech_cache", "speech_cache", "speech_cache_precision"),
)
# Flags that came later, with what they amount to in the runs before.
LATER = {
    "adapter": "bottleneck",
    "speech_adapter_layers": 3,
    "shared": False,
    "freeze_speech": False,
    "importance": "fisher",
    "sampler": "balanced",
}
# Flags that say where something lies. What lies there is compared, not where.
PLACES = ("data_root", "checkpoint", "text_model", "speech_model", "fisher", "class_weights")
# What config.json says of its own, beside the arguments.
TOLD_APART = ("task", "after", "together", "sequence", "labels")
# Raised when earlier run folders no longer say enough to be resumed, skipped or averaged.
FORMAT = 3
# What an encoder is loaded from.
ENCODER_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")


def read_run_config(path):
    """A run's config.json.

    Raises:
        UserError: if it is not a JSON object, or was written by another version of this code.
    """
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise UserError(
            f"{path} is of format {config.get('format', 1)!r:.20}, and this version reads format {FORMAT}: train the run again "
            "(--overwrite), or move its folder away"
        )
    return config


def arguments_that_matter(arguments):
    """The flags on which a run's numbers depend, as ``{name: value}``."""
    left_out = (*WITHOUT_EFFECT, *PLACES, *TOLD_APART)
    return {f"--{name}": value for name, value in (LATER | arguments).items() if name not in left_out}


def identity(config):
    """Everything in a config.json that makes the run what it is, as ``{name: value}``."""
    facts = arguments_that_matter(config["arguments"])
    for name, corpus in config["corpora"].items():
        facts[f"corpus {name}"] = corpus["digest"]
        facts[f"folds of {name}"] = told_fold(corpus)
    facts |= {f"{kind} encoder": encoder["fingerprint"] for kind, encoder in config["encoders"].items()}
    facts["starting model"] = (config.get("started_from") or {}).get("sha256")
    facts["class weights"] = (config.get("privacy") or {}).get("class_weights")
    facts["sequence of tasks"], facts["labels"] = config["sequence"], config["labels"]
    return facts


def differences(one, other, may_differ=(), words="{} then, {} now"):
    """What differs between two identities, but for the names in ``may_differ``, as texts; a flag with both values."""
    names = sorted(name for name in (one.keys() | other.keys()) - set(may_differ) if one.get(name) != other.get(name))
    return [f"{name} {words.format(one.get(name), other.get(name))}" if name.startswith("--") else name for name in names]


def fold_digest(splits):
    """SHA-256 of which sessions train, validate and test: tells one division of a corpus from another, and names nobody."""
    sessions = [sorted(map(str, splits[split]["sessions"])) for split in sorted(splits)]
    return hashlib.sha256(json.dumps(sessions).encode()).hexdigest()


def told_withdrawn(config, name):
    """How many sessions of a corpus were withdrawn, and a digest of their names, of a config.json or exported facts."""
    told = config.get("withdrawn", {}).get(name) or []
    if isinstance(told, dict):
        return told
    return {"sessions": len(told), "digest": hashlib.sha256(json.dumps(told).encode()).hexdigest()}


def told_fold(corpus):
    """``fold_digest`` of a corpus as config.json tells of it; exported and score files hold the digest, and name no session."""
    return corpus if isinstance(corpus, str) else corpus.get("fold") or fold_digest(corpus["splits"])


def starting_checkpoint(args):
    """The checkpoint that a run of a sequence starts from: ``--checkpoint``, or that of the tasks before, of the same fold.

    The first task's model lies under ``--init_name``, later ones under the run's own ``--exp_name``.
    """
    if args.checkpoint is not None:
        return args.checkpoint
    return checkpoint_of(args, args.sequence[:-1])


def checkpoint_of(args, sequence):
    """Where the model lies that has learned ``sequence``, an earlier part of the run's own."""
    exp_name = args.init_name if len(sequence) == 1 else args.exp_name
    return run_folder(args.output_root, exp_name, args.num_fold, task_folder(sequence)) / BEST_MODEL


def checkpoint_facts(path):
    """What a checkpoint says of itself, without its tensors: config.json beside it, or an exported file's header.

    Returns:
        A dictionary; empty where nothing is said.

    Raises:
        UserError: if config.json is damaged or of another version.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(9)
        if head[8:] == b"{":  # safetensors: the length of a JSON header, and the header
            with suppress(ValueError, KeyError):
                return json.loads(json.loads(b"{" + file.read(int.from_bytes(head[:8], "little") - 1))["__metadata__"]["facts"])
            return {}
    config = path.with_name(CONFIG)
    return read_run_config(config) if config.exists() else {}


class FileDigests:
    """SHA-256 of files, computed again only where size, time of change or inode are others than before.

    Args:
        store: a JSON file that keeps them between processes; where it cannot be written they are computed each time.
    """

    def __init__(self, store):
        self.store = Path(store)
        try:
            self.known = read_json(self.store)
        except UserError:
            self.known = {}

    def __call__(self, *paths):
        """SHA-256 of each file's bytes, a list in the order of ``paths``."""
        before = dict(self.known)
        digests = [self._digest(os.path.realpath(path)) for path in paths]
        if self.known != before:
            with suppress(UserError):
                write_json(self.store, self.known)
        return digests

    def _digest(self, path):
        found = os.stat(path)
        seen = [found.st_size, found.st_mtime_ns, found.st_ino]
        *before, digest = self.known.get(path) or (None,)
        if before != seen:
            digest = sha256(path)
            self.known[path] = [*seen, digest]
        return digest

    def of_encoder(self, folder):
        """One digest of all files that an encoder and its tokenizer are loaded from."""
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in ENCODER_FILES and path.is_file())
        told = [[path.name, digest] for path, digest in zip(files, self(*files))]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()
