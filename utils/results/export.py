"""Export a finished run as a shareable safetensors file with a model card, and load the model of such a file.

The file contains no executable code: only the trained weights (and random encoders, if adapters were trained over them), the
facts that a recipient needs instead of config.json, and the model card. It names no utterance and no path.
"""

import argparse
import json
import re
from pathlib import Path

from utils.errors import UserError, one_line_errors, printable
from utils.files import LEAKAGE, atomic_write, read_json, require_folder, write_text
from utils.flags import Parser, named_path
from utils.methods import METHODS
from utils.results.card import SCORES
from utils.training.arguments import add_encoder_flags

# torch is imported within functions to keep --help fast.

# Flags stored in the file and its card: training settings and input lengths.
ARGUMENTS = (
    *("lr", "batch_size", "num_epochs", "mixed_precision", "max_text_len", "max_seq_len", "ewc_lambda", "ewc_online"),
    *("ewc_gamma", "fisher_batch_size", "without_pretraining", "encoder_seed"),
    *("adapter", "adapter_size", "lora_rank", "speech_adapter_layers", "speech_adapter_width"),
    *("train_half", "sampler", "cap"),
    *("importance", "lwf_weight", "lwf_temperature", "buffer_size", "replay_weight", "dark", "der_alpha", "der_beta"),
)
FACTS_OF_RUN = ("method", "model", "task", "sequence", "fold", "k_fold", "seed", "synthetic", "labels", "versions")
# Suffix of the file with the Fisher information, beside an exported file.
FISHER = ".fisher.safetensors"


def export(run_folder, path, overwrite=False, text_model=None, speech_model=None, with_fisher=False, with_centroids=False):
    """Write a finished run as one file, with a copy of its model card beside it (suffix .md).

    Args:
        run_folder: the run's folder.
        path: the file to write.
        overwrite: replace existing files.
        text_model, speech_model: as in ``load_run``.
        with_fisher: also write the run's Fisher information, beside the file with the suffix .fisher.safetensors; if there is
            none beside the model, it is computed, which needs the corpus.
        with_centroids: include the centroids for routing, which are means of people's utterances.

    The run's results of leakage.py, if any, are included in the file and on the card.

    Raises:
        UserError: if the run is unfinished or cannot be used, lacks requested content, has a measured leak that contradicts
            its ε, or the files exist or cannot be written.
    """
    run_folder, path = Path(run_folder), Path(path)
    require_writable(path, overwrite, [run_folder], with_fisher)

    from utils.training.fisher import write_fisher
    from utils.training.sources import CENTROIDS, load_model

    source = load_model(run_folder, text_model, speech_model)
    model, config = source.model, source.facts
    if config["method"] not in METHODS:
        raise UserError(f"{run_folder} is of method {config['method']}, which utils/methods.py does not declare")
    if with_centroids and source.centroids is None:
        raise UserError(f"{run_folder} has no {CENTROIDS}: 'python -m utils.training.routing {run_folder}' makes it")
    if with_centroids and config.get("privacy"):
        raise UserError(f"{run_folder} was trained with --epsilon, which does not cover centroids: export it without them")
    if with_fisher:
        fisher = _fisher_of(run_folder, source.digest, {"text_model": text_model, "speech_model": speech_model})
    facts = exported_facts(model, config, source.metrics) | {"leakage": _leakage(run_folder, source.digest)}
    _require_no_contradiction(run_folder, facts)
    write_export(path, exported_state(model, config), facts, source.tokenizer, source.centroids if with_centroids else None)
    if with_fisher:
        write_fisher(path.with_suffix(FISHER), fisher)


def write_export(path, state, facts, tokenizer, centroids=None):
    """Write an exported file, and its model card beside it.

    Args:
        path: the file.
        state: the model's tensors.
        facts: the counterpart of a run's config.json.
        tokenizer: of the text encoder.
        centroids: optional (clusters, features), for routing.
    """
    import safetensors.torch
    import torch

    from models.tokenizer import tokenizer_files
    from utils.results.card import model_card
    from utils.training.checkpoints import CARD, DIGEST, EXTRA, FACTS, content_digest

    files = {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in tokenizer_files(tokenizer).items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    tensors |= {f"{EXTRA}tokenizer/{name}": content for name, content in files.items()}
    if centroids is not None:
        tensors[f"{EXTRA}centroids"] = centroids.contiguous()
    card, text = model_card(facts, centroids is not None), json.dumps(facts, ensure_ascii=False)
    metadata = {FACTS: text, CARD: card, DIGEST: content_digest(tensors, text, card)}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))
    write_text(path.with_suffix(".md"), card)


def _leakage(run_folder, digest):
    """The results of leakage.py for a run, a list of rows; None if there are none."""
    path = run_folder / LEAKAGE
    if not path.exists():
        return None
    kept = read_json(path)
    if kept.get("model") != digest:
        raise UserError(f"{path} is of another model: run leakage.py again, or remove it")
    return kept["measured"]


def _require_no_contradiction(run_folder, facts):
    """Raise UserError if the measured leak contradicts the ε claimed for the model's last task."""
    of_task = [row["epsilon_bound"] for row in facts["leakage"] or () if row["tested"] == facts["task"]]
    bounds = [bound for bound in of_task if bound is not None]
    claimed = (facts["privacy"] or {}).get("epsilon")
    if claimed is not None and max(bounds, default=0) > claimed:
        raise UserError(
            f"{run_folder} claims ε = {claimed:g}, and {LEAKAGE} beside it shows that ε is above {max(bounds):.3g} (99.9 %): "
            "one of the two is wrong, and it is not exported"
        )


def push(path, name, private=False, with_fisher=False):
    """Upload an exported file and its model card to the Hugging Face hub, and nothing else.

    Args:
        path: the file.
        name: OWNER/NAME of the repository, which is created if missing.
        private: create it as private.
        with_fisher: also upload the Fisher information beside the file.

    Returns:
        (names of the uploaded files, the repository's URL).

    Raises:
        UserError: if one of the files is missing or damaged, or the hub refuses them.
    """
    from utils.hub import FILE, upload
    from utils.training.checkpoints import read_export, state_digest
    from utils.training.fisher import read_fisher

    exported, fisher = read_export(path), path.with_suffix(FISHER)
    files = {FILE: path, "README.md": exported.card.encode()}
    if with_fisher:
        if not fisher.exists() or read_fisher(fisher)["model"] != state_digest(exported.state):
            raise UserError(f"{fisher} is missing, or of another model: export the run again with --with_fisher")
        files[Path(FILE).with_suffix(FISHER).name] = fisher
    return list(files), upload(name, files, private)


def _fisher_of(run_folder, digest, encoders):
    """The Fisher information of a run's model, preferably with the default batch size; computed if there is none."""
    from utils.training.fisher import FILE, FISHER, make_fisher, read_fisher

    usual = run_folder / FILE.format(FISHER, 10)
    for path in [usual] * usual.exists() + sorted(run_folder.glob(FILE.format(FISHER, "*"))):
        if (kept := read_fisher(path))["model"] == digest:
            return kept
    make_fisher(run_folder, **{name: named for name, named in encoders.items() if named})
    return read_fisher(usual)


def require_writable(path, overwrite, run_folders, with_fisher=False):
    """Raise UserError if the folder of ``path`` is missing, the file exists, or it would be among the files of a run."""
    if path.is_dir() or path.suffix == ".md":
        raise UserError(f"{path} is a folder, or ends as the model card beside it will: name a file, such as model.safetensors")
    require_folder(path)
    if path.resolve().parent in [Path(folder).resolve() for folder in run_folders]:
        raise UserError(f"{path} would lie among the run's own files: name a file elsewhere")
    for existing in _written(path, with_fisher):
        if existing.exists() and not overwrite:
            raise UserError(f"{existing} exists: name another file, or --overwrite")


def _written(path, with_fisher):
    return [path, path.with_suffix(".md"), *[path.with_suffix(FISHER)] * with_fisher]


def load_export(path, text_model=None, speech_model=None):
    """Rebuild the model of an exported file; see ``utils.training.sources.load_export``."""
    from utils.training import sources

    return sources.load_export(path, text_model, speech_model)


def exported_state(model, config):
    """A model's tensors to export: the trained ones, and random encoders, which are stored nowhere else."""
    return model.state_dict() if config["arguments"].get("without_pretraining") else model.checkpoint_state()


def exported_facts(model, config, metrics):
    """The file's counterpart of config.json, without facts about machines or recordings, and without user names."""
    from models.encoders import architecture
    from utils.identity import fold_digest, told_withdrawn
    from utils.training.checkpoints import EXPORT_FORMAT

    encoders = {
        kind: {
            "name": name_without_path(of),
            "fingerprint": of["fingerprint"],
            "synthetic": of["synthetic"],
            "architecture": architecture(getattr(model, f"{kind}_encoder")),
        }
        for kind, of in config["encoders"].items()
    }
    return {
        "format": EXPORT_FORMAT,
        **{name: config[name] for name in FACTS_OF_RUN},
        "whole": exported_state(model, config).keys() == model.state_dict().keys(),
        "corpora": {name: fold_digest(of["splits"]) for name, of in sorted(config["corpora"].items())},
        "withdrawn": {name: told_withdrawn(config, name) for name in sorted(config.get("withdrawn", {}))},
        "arguments": {name: config["arguments"][name] for name in ARGUMENTS if name in config["arguments"]},
        "encoders": encoders,
        # Fitted on the validation split, which DP-SGD does not cover.
        "temperature": None if config.get("privacy") else metrics.get("temperature"),
        "privacy": config.get("privacy"),
        "scores": _scores(metrics["test"]),
        "scores_without_text": _scores(metrics.get("test_without_text", {})),
    }


def _scores(tests):
    return {task: {score: test[score] for score in SCORES} for task, test in tests.items()}


def name_without_path(encoder):
    from models.hub import HUB_NAME

    name = encoder["name"]
    return name if encoder["hub_commit"] and HUB_NAME.fullmatch(name) else Path(name).name or Path(name).resolve().name


def _repository(text):
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OWNER/NAME")
    return text


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.results.export",
        description="Write a finished run as a shareable safetensors file with a model card; or print the card of such a file.",
        example="python -m utils.results.export outputs/adapter/fold_0/KEMDy19 adapter.safetensors",
    )
    parser.add_argument(
        "source", type=named_path, metavar="RUN_FOLDER", help="folder of a finished run; without FILE also an exported file"
    )
    parser.add_argument("file", type=named_path, metavar="FILE", nargs="?", help="file to write, such as model.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE and the files beside it")
    parser.add_argument(
        "--with_fisher",
        action="store_true",
        help=f"also write (and upload) the run's Fisher information for EWC: FILE's name with {FISHER}",
    )
    parser.add_argument(
        "--with_centroids",
        action="store_true",
        help="include an adapter's centroids, used to recognise its task; they are means of people's utterances",
    )
    parser.add_argument(
        "--push", type=_repository, metavar="OWNER/NAME", help="upload the exported file and its card to the Hugging Face hub"
    )
    parser.add_argument("--private", action="store_true", help="make the repository of --push private")
    add_encoder_flags(parser, "run's %s encoder (default: the run's, if it is on this machine)")
    args = parser.parse_args()
    path = args.file or args.source
    if args.file is not None:
        export(args.source, path, args.overwrite, args.text_model, args.speech_model, args.with_fisher, args.with_centroids)
        print(
            "wrote "
            + ", ".join(f"{written} ({written.stat().st_size / 1e6:,.1f} MB)" for written in _written(path, args.with_fisher))
        )
    elif path.is_dir():
        raise UserError(f"{path} is a folder: name the FILE to write it to as well")
    elif args.with_centroids or (args.with_fisher and not args.push):
        raise UserError(f"{path} stays as it is: export the run again, --with_fisher or --with_centroids")
    if args.push:
        names, address = push(path, args.push, args.private, args.with_fisher)
        print(f"uploaded {', '.join(names)} to {address}")
    elif args.file is None:
        from utils.training.checkpoints import read_export

        print(printable(read_export(path).card), end="")


if __name__ == "__main__":
    main()
