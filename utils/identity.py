"""A run's identity: the arguments that matter, corpora, encoders and starting model, each by its content.

Resuming, skipping, averaging and starting from a model compare this identity and nothing else. Without torch, since evaluation
uses it too.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, read_json, run_folder, sha256, write_json
from utils.methods import task_folder

# Flags for where and how fast a run is made, or its name; they do not affect the result (except for rounding).
WITHOUT_EFFECT = (
    *("experiment", "trial_of", "output_root", "cpu", "num_workers", "overwrite", "keep_last", "log_with"),
    *("no_speech_cache", "speech_cache", "speech_cache_precision"),
)
# Flags added later, with their implicit values in earlier runs.
LATER = {
    "adapter": "bottleneck",
    "speech_adapter_layers": 3,
    "shared": False,
    "freeze_speech": False,
    "importance": "fisher",
    "sampler": "balanced",
}
# Flags that name a path. The content is compared, not the path.
PLACES = ("data_root", "checkpoint", "text_model", "speech_model", "fisher", "class_weights")
# Recorded in config.json outside of the arguments.
RECORDED_SEPARATELY = ("task", "after", "together", "sequence", "labels", "withdraw")
# Increased when earlier run folders lack facts needed to resume, skip or average them.
FORMAT = 3
# Files that an encoder is loaded from.
ENCODER_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")


def read_run_config(path):
    """A run's config.json.

    Raises:
        UserError: if it is not a JSON object, or was written by another version of this code.
    """
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {config.get('format', 1)!r:.20}, but this version reads format {FORMAT}: train the run again "
            "(--overwrite), or move its folder away"
        )
    return config


def arguments_that_matter(arguments):
    """The flags on which a run's numbers depend, as ``{name: value}``."""
    left_out = (*WITHOUT_EFFECT, *PLACES, *RECORDED_SEPARATELY)
    return {f"--{name}": value for name, value in (LATER | arguments).items() if name not in left_out}


def identity(config):
    """Everything in a config.json that identifies the run, as ``{name: value}``."""
    facts = arguments_that_matter(config["arguments"])
    for name, corpus in config["corpora"].items():
        facts[f"corpus {name}"] = corpus["digest"]
        facts[f"folds of {name}"] = told_fold(corpus)
        facts[f"set of withdrawn sessions of {name}"] = told_withdrawn(config, name)["digest"]
    facts |= {f"{kind} encoder": encoder["fingerprint"] for kind, encoder in config["encoders"].items()}
    facts["starting model"] = (config.get("started_from") or {}).get("sha256")
    facts["class weights"] = (config.get("privacy") or {}).get("class_weights")
    facts["sequence of tasks"], facts["labels"] = config["sequence"], config["labels"]
    return facts


def differences(one, other, may_differ=(), words="{} then, {} now"):
    """The differences between two identities, except the names in ``may_differ``, as texts; flags with both values."""
    names = sorted(name for name in (one.keys() | other.keys()) - set(may_differ) if one.get(name) != other.get(name))
    return [f"{name} {words.format(one.get(name), other.get(name))}" if name.startswith("--") else name for name in names]


def fold_digest(splits):
    """SHA-256 of the sessions in each split: identifies a division of a corpus without naming sessions."""
    sessions = [sorted(map(str, splits[split]["sessions"])) for split in sorted(splits)]
    return hashlib.sha256(json.dumps(sessions).encode()).hexdigest()


def told_withdrawn(config, name):
    """The number of withdrawn sessions of a corpus, and a digest of their names, from a config.json or exported facts."""
    told = config.get("withdrawn", {}).get(name) or []
    if isinstance(told, dict):
        return told
    return {"sessions": len(told), "digest": hashlib.sha256(json.dumps(told).encode()).hexdigest()}


def told_fold(corpus):
    """``fold_digest`` of a corpus in config.json; exported and score files contain only the digest, and no sessions."""
    return corpus if isinstance(corpus, str) else corpus.get("fold") or fold_digest(corpus["splits"])


def starting_checkpoint(args):
    """The checkpoint that a run of a sequence starts from: ``--checkpoint``, or that of the earlier tasks on the same fold.

    The first task's model is in the experiment ``--init_name``, later ones in the run's own ``--exp_name``.
    """
    if args.checkpoint is not None:
        return args.checkpoint
    return checkpoint_of(args, args.sequence[:-1])


def checkpoint_of(args, sequence):
    """Path of the model trained on ``sequence``, an earlier part of the run's own."""
    exp_name = args.init_name if len(sequence) == 1 else args.exp_name
    return run_folder(args.output_root, exp_name, args.num_fold, task_folder(sequence)) / BEST_MODEL


def checkpoint_facts(path):
    """The metadata of a checkpoint, without its tensors: config.json beside it, or an exported file's header.

    Returns:
        A dictionary; empty if there is no metadata.

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
    """SHA-256 of files, recomputed only if size, modification time or inode have changed.

    Args:
        store: a JSON file that caches them between processes; if it cannot be written they are computed each time.
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
        named = [[path.name, digest] for path, digest in zip(files, self(*files))]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()
