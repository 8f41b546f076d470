"""The one file of a run that may leave the house, and the model that it gives elsewhere.

It is in safetensors format, so that nothing in it can run: the weights that the run trained (with adapters over random
encoders these too), what tells of them in the place of config.json, and a model card. It names no utterance and no path.
"""

import argparse
import json
import numbers
import re
from pathlib import Path

import safetensors.torch
import torch

from models.encoders import architecture, build_encoder, load_encoder
from models.hub import HUB_NAME, cached_folder
from utils.data.kemdy import CORPORA
from utils.errors import UserError, one_line_errors, printable
from utils.files import BEST_MODEL, METRICS, read_json, whole_file, write_text
from utils.flags import encoder_name, named_path
from utils.identity import fold_digest
from utils.training.checkpoints import (
    CARD,
    DIGEST,
    EXPORT_FORMAT,
    FACTS,
    assemble,
    content_digest,
    has_adapters,
    load_run,
    misfit,
    read_export,
    read_state,
    require_same_encoders,
)

VERSION = re.compile(r"[\w.+-]+")  # of a package, or its name
# Flags that the card tells of: how the model was trained, and what it must be given.
TRAINING = (
    *("lr", "batch_size", "num_epochs", "mixed_precision", "max_text_len", "max_seq_len"),
    *("ewc_lambda", "fisher_batch_size", "encoder_seed"),
)
SCORES = {"f1_weighted": "weighted F1", "f1_macro": "macro F1", "f1_micro": "micro F1", "n": "utterances"}
LICENCES = {
    "skt/kobert-base-v1": "Apache-2.0",
    "facebook/wav2vec2-base-960h": "Apache-2.0",
    "klue/bert-base": "CC BY-SA 4.0",
}
METHODS = {
    "task_a": "The whole fusion model, trained on one corpus.",
    "joint": "The whole fusion model, trained on both corpora at once.",
    "finetune": "The whole fusion model, trained on one corpus and then on another.",
    "ewc": "The whole fusion model, trained on one corpus and then, with the penalty of EWC, on another.",
    "adapter": "Adapters of one corpus over frozen pretrained encoders, which are not in this file.",
    "adapter_wo_pretraining": "Adapters of one corpus over frozen encoders with random weights, which are in this file.",
}


def export(run_folder, path, overwrite=False, text_model=None, speech_model=None):
    """Write a finished run as one file, the model card also beside it with the suffix .md, and read the file back.

    Args:
        run_folder: the run's folder.
        path: the file to write.
        overwrite: replace files that are there.
        text_model, speech_model: as ``load_run`` takes them.

    Raises:
        UserError: if the run is unfinished or cannot be used, the files are there or cannot be written, or what is read
            back is not what best_model.pt holds.
    """
    run_folder, path = Path(run_folder), Path(path)
    if not (run_folder / METRICS).exists():
        raise UserError(f"{run_folder} is not a finished run (it has no {METRICS}): name the folder of one")
    if path.is_dir() or path.suffix == ".md":
        raise UserError(f"{path} is a folder, or ends as the model card beside it will: name a file, such as model.safetensors")
    if path.resolve().parent == run_folder.resolve():
        raise UserError(f"{path} would lie among the run's own files: name a file elsewhere")
    card_path = path.with_suffix(".md")
    for existing in (path, card_path):
        if existing.exists() and not overwrite:
            raise UserError(f"{existing} exists: name another file, or --overwrite")
    model, config = load_run(run_folder, text_model, speech_model)
    facts = _facts(model, config, _test_scores(run_folder / METRICS), run_folder)
    card = model_card(facts)
    trained = read_state(run_folder / BEST_MODEL)
    state = model.state_dict() if facts["without_pretraining"] else trained
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    told = json.dumps(facts, ensure_ascii=False)
    metadata = {FACTS: told, CARD: card, DIGEST: content_digest(state, told, card)}
    with whole_file(path) as file:
        file.write(safetensors.torch.save(state, metadata))
    try:
        _read(path)
    except UserError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} was read back otherwise than it was written, and is removed ({error})") from None
    write_text(card_path, card)


def load_export(path, text_model=None, speech_model=None):
    """Rebuild the model of an exported file, on any machine.

    Args:
        path: the file.
        text_model, speech_model: hub names or folders of the encoders that adapters of pretrained ones stand on. Without
            them the hub names in the file are taken if they are in the hub's cache: nothing is fetched that is not named
            here. All other models are whole in their file and need no encoders.

    Returns:
        (model, facts): a FusionClassifier or AdapterFusionClassifier in evaluation mode, and what the file says of it.

    Raises:
        UserError: if the file cannot be used, or the encoders are not to be had or are others.
    """
    state, facts, _ = _read(path)
    if is_whole(facts):
        model = _skeleton(facts, path)
        model.load_state_dict(state)
    else:
        encoders = [
            load_encoder(kind, named or cached_folder(kind, facts["encoders"][kind]["name"]))
            for kind, named in (("text", text_model), ("speech", speech_model))
        ]
        model = assemble(facts["method"], *encoders, facts["adapter_size"])
        require_same_encoders(model, facts, path)
        model.load_checkpoint_state(state)
    return model.eval(), facts


def is_whole(facts):
    """Does the file hold the whole model, its encoders too?"""
    return not has_adapters(facts["method"]) or facts["without_pretraining"]


def _read(path):
    """``read_export``, once it is sure that the tensors are those of the model that the file describes."""
    state, facts, card = read_export(path)
    size, without = facts.get("adapter_size"), facts.get("without_pretraining")
    adapters = has_adapters(facts["method"])
    if not isinstance(without, bool) or (adapters and not (type(size) is int and 0 < size < 2**31)):
        raise UserError(f"{path} has no 'adapter_size' or 'without_pretraining', or not as it was written: copy it again")
    with torch.device("meta"):  # takes no memory, whatever sizes the file names
        model = _skeleton(facts, path)
    wrong = misfit(state, model.state_dict() if is_whole(facts) else model.checkpoint_state())
    if wrong:
        raise UserError(f"{path} does not hold the model that it describes: {wrong}")
    return state, facts, card


def _skeleton(facts, path):
    settings = {kind: of.get("architecture") for kind, of in facts["encoders"].items()}
    if not all(isinstance(of, dict) for of in settings.values()):
        raise UserError(f"{path} has no 'architecture' of its encoders: copy it again")
    try:
        encoders = [build_encoder(kind, settings[kind], path) for kind in ("text", "speech")]
        return assemble(facts["method"], *encoders, facts["adapter_size"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its encoders do not make a model ({type(error).__name__})") from None


def _test_scores(path):
    """The test scores of metrics.json, ``{corpus: {score: number}}``."""
    tests = read_json(path).get("test")
    try:
        scores = {name: {score: test[score] for score in SCORES} for name, test in tests.items() if name in CORPORA}
    except (AttributeError, KeyError, TypeError):
        scores = {}
    if not scores or not all(
        isinstance(value, numbers.Real) and value >= 0 for test in scores.values() for value in test.values()
    ):
        raise UserError(f"{path} has no scores under 'test', or not as they were written: copy it again")
    return scores


def _facts(model, config, scores, run_folder):
    """What stands for config.json in the file: nothing that tells of a machine or a recording."""
    arguments = config["arguments"]
    training = {name: arguments[name] for name in TRAINING if isinstance(arguments.get(name), int | float | str)}
    versions = config.get("versions")
    if not isinstance(versions, dict) or not all(VERSION.fullmatch(str(text)) for pair in versions.items() for text in pair):
        raise UserError(f"{run_folder}: config.json has no 'versions', or not as they were written: copy it again")
    encoders = {
        kind: {
            "name": _name_without_path(of),
            "fingerprint": of["fingerprint"],
            "synthetic": bool(of.get("synthetic")),
            "architecture": architecture(getattr(model, f"{kind}_encoder")),
        }
        for kind, of in config["encoders"].items()
    }
    own = ("method", "task", "fold", "k_fold", "seed", "synthetic", "labels")
    return (
        {"format": EXPORT_FORMAT}
        | {name: config[name] for name in own}
        | {
            "adapter_size": arguments.get("adapter_size"),
            "without_pretraining": bool(arguments.get("without_pretraining")),
            "corpora": {name: fold_digest(of["splits"]) for name, of in sorted(config["corpora"].items())},
            "training": training,
            "encoders": encoders,
            "scores": scores,
            "versions": versions,
        }
    )


def _name_without_path(encoder):
    name = encoder["name"]
    if encoder.get("hub_commit") and HUB_NAME.fullmatch(name):
        return name
    return Path(name).name or Path(name).resolve().name


def model_card(facts):
    """The model card of what ``facts`` tell, in Markdown."""
    synthetic = "SYNTHETIC " if facts["synthetic"] else ""
    encoders, training = facts["encoders"], facts["training"]
    lines = [f"# {synthetic}speech emotion recognition: {facts['method']} on {facts['task']}", ""]
    if facts["synthetic"]:
        lines += ["SYNTHETIC: made of generated data or encoders. Its scores tell nothing of real speech.", ""]
    lines += [
        f"{METHODS.get(facts['method'], facts['method'])} It takes speech of at most {training.get('max_seq_len')} s at "
        f"16 kHz, made zero mean and unit variance, and its transcript of at most {training.get('max_text_len')} tokens, and "
        f"gives the logits of {', '.join(facts['labels'])}.",
        "",
        "## How it was trained",
        "",
        f"On {' and '.join(facts['corpora'])}, fold {facts['fold']} of {facts['k_fold']} (by session), seed {facts['seed']}: "
        + ", ".join(f"{name} {value}" for name, value in training.items())
        + (f", adapter_size {facts['adapter_size']}" if facts["adapter_size"] else "")
        + ". With "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + ".",
        "",
        "| encoder | name | fingerprint | licence |",
        "|---|---|---|---|",
    ]
    for kind, of in encoders.items():
        licence = LICENCES.get(of["name"].partition("@")[0], "not known here: ask whoever published it")
        name = of["name"] + (" (SYNTHETIC)" if of["synthetic"] else "") + (", random" if facts["without_pretraining"] else "")
        lines.append(f"| {kind} | {name} | {of['fingerprint'][:12]} | {licence} |")
    lines += ["", "## Scores on the test split", "", f"| tested on | {' | '.join(SCORES.values())} |", "|---" * 5 + "|"]
    for corpus, scores in facts["scores"].items():
        values = " | ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in scores.values())
        lines.append(f"| {synthetic}{corpus} | {values} |")
    if is_whole(facts):
        named, base = "", "Nothing else is needed, but for the text encoder's vocabulary."
    else:
        named = ', text_model="NAME OR FOLDER", speech_model="NAME OR FOLDER"'
        base = "Name the two encoders of the table above; others are refused by their fingerprints."
    lines += [
        "",
        "## How to load it",
        "",
        "```python",
        "from utils.results.export import load_export",
        "",
        f'model, facts = load_export("FILE"{named})',
        "logits = model(speech_inputs, text_inputs)  # (batch, 7)",
        "```",
        "",
        base,
    ]
    if not has_adapters(facts["method"]):
        lines += [
            "",
            "A model of one corpus is also a start for the other: `python finetune.py --task OTHER --checkpoint FILE`.",
        ]
    lines += [
        "",
        "## What it can give away",
        "",
        "There is no recording and no transcript in this file, but weights can leak what they were trained on: whether a "
        "recording was among it (membership inference), and voices or words that the model has memorised. Share it only with "
        "those who may know that, and as the licence of the corpora allows.",
    ]
    return "\n".join(lines) + "\n"


@one_line_errors
def main():
    parser = argparse.ArgumentParser(
        description="Write a finished run as one file that may leave the house, or print the model card of such a file."
    )
    parser.add_argument(
        "source", type=named_path, metavar="RUN_FOLDER", help="folder of a finished run; alone: an exported file"
    )
    parser.add_argument("file", type=named_path, metavar="FILE", nargs="?", help="file to write, such as model.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE and its card")
    for kind in ("text", "speech"):
        parser.add_argument(
            f"--{kind}_model",
            type=encoder_name,
            help=f"{kind} encoder of the run (default: as then, if it is on this machine)",
        )
    args = parser.parse_args()
    if args.file is None:
        if args.source.is_dir():
            raise UserError(f"{args.source} is a folder: name the FILE to write it to as well")
        print(printable(_read(args.source)[2]), end="")
        return
    export(args.source, args.file, args.overwrite, args.text_model, args.speech_model)
    print(f"wrote {args.file} ({args.file.stat().st_size / 1e6:,.1f} MB) and {args.file.with_suffix('.md')}")


if __name__ == "__main__":
    main()
