"""Export the weighted mean of two models' weights: ``python -m utils.results.merge A B --output FILE``."""

import sys

from utils.errors import UserError, one_line_errors, printable
from utils.flags import Parser, between, named_path
from utils.identity import arguments_that_matter
from utils.training.arguments import add_encoder_flags

# torch is imported within functions to keep --help fast.

# Facts in which the two models should agree.
DIFFERING = {
    "seed": "their new layers were drawn apart, and the mean is worse for it (by .02 to .04 of F1 for adapters of the "
    "synthetic demonstration)",
    "fold": "the mean may have been trained on either one's test utterances",
}


def mean_state(one, other, alpha):
    """(1 - alpha) one + alpha other, tensor by tensor; exact for equal tensors and for alpha 0 and 1.

    Args:
        one, other: state dicts of one architecture; tensors that are not floating-point are copied from ``one``.
        alpha: weight of ``other``, from 0 to 1.
    """
    import torch

    if alpha in (0, 1):
        return dict((one, other)[int(alpha)])
    return {
        name: torch.lerp(tensor, other[name], alpha) if tensor.is_floating_point() else tensor for name, tensor in one.items()
    }


def require_alike(one, other, first, second):
    """Raise UserError unless two models' weights can be averaged.

    Args:
        one, other: contents of their config.json, or the facts of an exported file.
        first, second: their paths, for messages.
    """
    from models import model_class

    both = f"{first} and {second}"
    if one["model"] != other["model"]:
        raise UserError(f"{both} are of models {one['model']} and {other['model']}: a mean of their weights is none")
    if one["labels"] != other["labels"]:
        raise UserError(
            f"{both} have the classes {', '.join(one['labels'])} and {', '.join(other['labels'])}: a mean of weights needs the "
            "same ones in the same order"
        )
    for kind, of in one["encoders"].items():
        if of["fingerprint"] != other["encoders"][kind]["fingerprint"]:
            raise UserError(f"{both} are over different {kind} encoders: a mean of weights needs the same ones")
    flags = [arguments_that_matter(of["arguments"]) for of in (one, other)]
    for name in (f"--{name}" for name in model_class(one["model"]).SETTINGS):
        values = [of.get(name) for of in flags]
        if values[0] != values[1]:
            raise UserError(f"{both} have {name} {values[0]} and {values[1]}: a mean of weights needs the same")
    if flags[0]["--adapter"] == "lora":
        raise UserError(f"{both} are of --adapter lora: a mean of B and one of A are no mean of their products BA")


def merge(first, second, path, alpha=0.5, overwrite=False, text_model=None, speech_model=None):
    """Write the weighted mean of two models as an exported file, with its model card beside it.

    Args:
        first, second: run folders, exported files, or ``hub:OWNER/NAME``.
        path: the file to write.
        alpha: weight of the second, from 0 to 1.
        overwrite: replace existing files.
        text_model, speech_model: as in ``load_model``.

    Returns:
        Warnings, one line each, about differences that make the mean worse.

    Raises:
        UserError: if a model cannot be used, the two cannot be averaged, or the file exists or cannot be written.
    """
    from utils.results.export import exported_facts, exported_state, require_writable, write_export
    from utils.training.sources import load_model

    require_writable(path, overwrite, [first, second])
    sources = [load_model(named, text_model, speech_model) for named in (first, second)]
    one, other = (
        exported_facts(source.model, source.facts, source.metrics) if source.metrics else source.facts for source in sources
    )
    require_alike(one, other, first, second)
    model = sources[0].model
    model.load_checkpoint_state(mean_state(*(source.model.checkpoint_state() for source in sources), alpha))
    arguments = {name: value for name, value in one["arguments"].items() if other["arguments"].get(name) == value}
    arguments |= {name: max(of["arguments"][name] for of in (one, other)) for name in ("max_text_len", "max_seq_len")}
    sequence = list(dict.fromkeys(one["sequence"] + other["sequence"]))
    folds = one["corpora"] | other["corpora"]
    # Each model may have been trained on the other's held-out data.
    folds |= {name: "several folds" for name, fold in one["corpora"].items() if folds[name] != fold}
    facts = one | {
        "method": "merged",
        "task": "+".join(sequence),
        "sequence": sequence,
        "corpora": folds,
        "withdrawn": _withdrawn_of_both(one, other),
        "synthetic": one["synthetic"] or other["synthetic"],
        "arguments": arguments,
        # The leak of the mean was not measured.
        "leakage": None,
        "privacy": None,
        "temperature": None,
        "scores": {},
        "scores_without_text": {},
        "parents": [source.digest for source in sources],
        "alpha": alpha,
    }
    write_export(path, exported_state(model, facts), facts, sources[0].tokenizer)
    return [
        f"{first} is of {name} {one[name]} and {second} of {name} {other[name]}: {why}"
        for name, why in DIFFERING.items()
        if one[name] != other[name]
    ]


def _withdrawn_of_both(one, other):
    """The exported fact ``withdrawn``: per corpus, the sessions excluded by every one of the two models trained on it."""
    told = one.get("withdrawn", {}) | other.get("withdrawn", {})
    heard = [(of.get("withdrawn", {}), {*of["sequence"], *of["corpora"]}) for of in (one, other)]
    return {
        name: of for name, of in told.items() if all(left_out.get(name) == of for left_out, names in heard if name in names)
    }


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.results.merge",
        description="Write the weighted mean of two models' weights as an exported file.",
        example="python -m utils.results.merge a.safetensors b.safetensors --output mean.safetensors",
    )
    for name, which in (("first", "A"), ("second", "B")):
        parser.add_argument(name, type=named_path, metavar=which, help="a run folder, an exported file, or hub:OWNER/NAME")
    parser.add_argument("--alpha", type=between(float, 0, 1), default=0.5, help="the weight of B; A's is 1 - alpha")
    parser.add_argument("--output", dest="path", type=named_path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE and its card")
    add_encoder_flags(parser, "models' %s encoder (default: theirs, if it is on this machine)")
    args = parser.parse_args()
    for warning in merge(**vars(args)):
        print(printable(f"note: {warning}"), file=sys.stderr)
    print(f"wrote {args.path} ({args.path.stat().st_size / 1e6:,.1f} MB) and {args.path.with_suffix('.md')}")


if __name__ == "__main__":
    main()
