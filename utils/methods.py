"""Every method, declared once: its script, how it learns, and how tables and figures show it.

A new method needs one script and one entry here. Only the standard library of Python 3.8 or later, without torch: evaluation
and the run scripts use it too.
"""

import shlex
import sys
from dataclasses import dataclass

# How a method learns several tasks: one model per task, one model sequentially, or one model on all at once. COMBINED is not
# trained: it combines finished models of another method.
ALONE, SEQUENCE, JOINT, COMBINED = "alone", "sequence", "joint", "combined"


@dataclass(frozen=True)
class Method:
    """One way to learn.

    Attributes:
        name: used in config.json, and the default name of its experiments.
        script: the training script; none for COMBINED.
        how: ALONE, SEQUENCE, JOINT or COMBINED.
        model: key of ``models.MODELS``.
        sentence: its description in model cards.
        colour: in figures.
        label: in figures, if different from the name.
        run_script: runs it over folds, seeds and tasks; by default run.sh.
        flags: flags of ``script`` that select this method.
        starts_from: SEQUENCE: the method whose model of the first task it starts from.
        reference: ALONE: whether it is a single-task reference rather than a way to learn several tasks.
        told_task: whether the task identity is given at test time.
        keeps_data: whether it needs recordings of earlier tasks.
        knob: the flag tuned in addition to the learning rate, and the values tried; empty if there is none.
        of: COMBINED: the method whose models are combined.
        answers: COMBINED: how predictions are combined, as for ``utils.training.routing.answer``; empty if their weights are
            averaged into one model.
    """

    name: str
    script: str
    how: str
    model: str
    sentence: str
    colour: str
    label: str = ""
    run_script: str = ""
    flags: tuple = ()
    starts_from: str = "task_a"
    reference: bool = False
    told_task: bool = False
    keeps_data: bool = False
    knob: tuple = ()
    of: str = ""
    answers: str = ""

    @property
    def in_order(self):
        """Whether its models depend on the order of the tasks."""
        return (METHODS[self.of].how if self.of else self.how) == SEQUENCE


# fmt: off
METHODS = {
    method.name: method
    for method in (
        Method("task_a", "continual_learning_init.py", ALONE, "fusion",
               "The whole fusion model, trained on one corpus.",
               "#009E73", run_script="run-init.sh", reference=True, told_task=True),
        Method("task_a_frozen_speech", "continual_learning_init.py", ALONE, "fusion_frozen_speech",
               "The fusion model over a frozen pretrained speech encoder, which is not in this file, trained on one corpus.",
               "#117755", label="task_a, frozen speech", flags=("--freeze_speech",), reference=True, told_task=True),
        Method("finetune", "finetune.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another.",
               "#D55E00", run_script="run-finetune.sh"),
        Method("finetune_frozen_speech", "finetune.py", SEQUENCE, "fusion_frozen_speech",
               "The fusion model over a frozen pretrained speech encoder, which is not in this file, trained on one corpus "
               "after another.",
               "#AA3311", label="finetune, frozen speech", flags=("--freeze_speech",), starts_from="task_a_frozen_speech"),
        Method("ewc", "ewc.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another with the penalty of elastic weight consolidation.",
               "#E69F00", label="EWC", run_script="run-ewc.sh",
               knob=("--ewc_lambda", ("10", "100", "1000", "10000", "100000"))),
        Method("ewc_online", "ewc.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another with the one penalty of online elastic weight "
               "consolidation.",
               "#CC8800", label="EWC, online", flags=("--ewc_online",),
               knob=("--ewc_lambda", ("10", "100", "1000", "10000", "100000"))),
        Method("mas", "ewc.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another with the penalty of memory aware synapses.",
               "#999933", label="MAS", flags=("--importance", "mas", "--ewc_lambda", "2"),
               knob=("--ewc_lambda", ("0.02", "0.2", "2", "20", "200"))),
        Method("lwf", "lwf.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another, with the model before as a teacher (learning "
               "without forgetting).",
               "#6699CC", label="LwF", knob=("--lwf_weight", ("0.1", "0.3", "1", "3", "10"))),
        Method("er", "replay.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another with utterances of earlier ones replayed.",
               "#7F3C8D", label="replay", keeps_data=True, knob=("--replay_weight", ("0.1", "0.25", "0.5", "0.75", "0.9"))),
        Method("derpp", "replay.py", SEQUENCE, "fusion",
               "The whole fusion model, trained on one corpus after another with utterances of earlier ones and their logits "
               "replayed (dark experience replay).",
               "#AA4466", label="DER++", flags=("--dark",), keeps_data=True, knob=("--der_alpha", ("0.1", "0.3", "0.5", "1"))),
        Method("adapter", "adapter.py", ALONE, "adapter",
               "Adapters of one corpus over frozen pretrained encoders, which are not in this file.",
               "#0072B2", run_script="run-adapter.sh", told_task=True, knob=("--adapter_size", ("16", "32", "64", "128"))),
        Method("adapter_wo_pretraining", "adapter.py", ALONE, "adapter",
               "Adapters of one corpus over frozen encoders with random weights, which are in this file.",
               "#56B4E9", label="adapter w/o pretraining", run_script="run-adapter-wo-pretraining.sh",
               flags=("--without_pretraining",), told_task=True, knob=("--adapter_size", ("16", "32", "64", "128"))),
        Method("adapter_shared", "adapter.py", SEQUENCE, "adapter",
               "One set of adapters over frozen pretrained encoders, which are not in this file, trained on one corpus after "
               "another.",
               "#4455AA", label="adapter, shared", flags=("--shared",), starts_from="adapter"),
        Method("lora", "adapter.py", ALONE, "adapter",
               "Low-rank adapters of one corpus over frozen pretrained encoders, which are not in this file.",
               "#33BBEE", label="LoRA", flags=("--adapter", "lora"), told_task=True,
               knob=("--lora_rank", ("8", "16", "32", "64"))),
        Method("linear", "adapter.py", ALONE, "adapter",
               "Projector and classifier of one corpus over frozen pretrained encoders, which are not in this file.",
               "#888888", flags=("--adapter", "none"), told_task=True),
        Method("adapter_routed", "", COMBINED, "adapter",
               "Several corpora's adapters; the one with the nearest centre of frozen features answers.",
               "#117733", label="adapter, routed", of="adapter", answers="routed"),
        Method("adapter_entropy", "", COMBINED, "adapter",
               "Several corpora's adapters; the one with the lowest prediction entropy answers.",
               "#44AA99", label="adapter, entropy", of="adapter", answers="entropy"),
        Method("adapter_mean", "", COMBINED, "adapter",
               "Several corpora's adapters; the mean of their probabilities is the answer.",
               "#882255", label="adapter, mean", of="adapter", answers="mean"),
        Method("adapter_merged", "", COMBINED, "adapter",
               "The mean of several corpora's adapters, over frozen pretrained encoders.",
               "#661100", label="adapter, merged", of="adapter"),
        Method("wise_ft", "", COMBINED, "fusion",
               "The mean of two whole fusion models, before and after a corpus was learned.",
               "#AA4499", label="WiSE-FT", of="finetune"),
        Method("wise_ft_tuned", "", COMBINED, "fusion",
               "A weighted mean of two whole fusion models, before and after a corpus was learned; α by validation on all.",
               "#332288", label="WiSE-FT, tuned", of="finetune", keeps_data=True),
        Method("merged", "", COMBINED, "",
               "The weighted mean of two models.",
               "#777777"),
        Method("joint", "continual_learning_init.py", JOINT, "fusion",
               "The whole fusion model, trained on several corpora at once.",
               "#CC79A7", run_script="run-joint.sh", keeps_data=True),
    )
}
# fmt: on
# The default starting point of SEQUENCE methods: its model of the first task.
START = "task_a"
# The rows of the published table.
PAPER = ("task_a", "finetune", "ewc", "adapter", "adapter_wo_pretraining")
# The corpora of the published study; folders of their runs are named after the task learned last.
KEMDY = ("KEMDy19", "KEMDy20")


def task_folder(sequence):
    """Name of the folder of a run trained on ``sequence``, one task after the other."""
    return sequence[-1] if len(sequence) == 1 or set(sequence) == set(KEMDY) else "+".join(sequence)


def joint_folder(tasks):
    """Name of the folder of a run trained on ``tasks`` jointly."""
    return JOINT if set(tasks) == set(KEMDY) else "+".join(sorted(tasks))


def main(words):
    """Print facts about methods for the run scripts.

    Args:
        words: a method, to print how, run script, script and flags, quoted for a shell ("start" for a reference, which has the
            classes of all tasks); or ``--list``: every trained method with its script; or ``--lines`` and methods (default:
            all): these and their starting points, one per line, SEQUENCE last, with how ("start" for a starting point), model,
            starting point (- for none) and run script.
    """
    trained = {name: method for name, method in METHODS.items() if method.how != COMBINED}
    starts = {method.starts_from for method in trained.values() if method.how == SEQUENCE}
    scripts = {name: method.run_script or f"run.sh {name}" for name, method in trained.items()}
    names = [word for word in words if not word.startswith("--")]
    for name in names:
        if name not in trained:
            sys.exit(f"error: there is no method {name!r} to train in utils/methods.py, but {', '.join(trained)}")
    if words[:1] == ["--list"]:
        for name, method in trained.items():
            print(f"  {name:<23} {' '.join((method.script, *method.flags))}")
    elif words[:1] == ["--lines"]:
        wanted = {*names, *(trained[name].starts_from for name in names if trained[name].how == SEQUENCE)} or trained
        for name, method in sorted(trained.items(), key=lambda item: item[1].how == SEQUENCE):
            if name in wanted:
                start = method.starts_from if method.how == SEQUENCE else "-"
                print(name, "start" if name in starts else method.how, method.model, start, scripts[name])
    else:
        for name in names:
            method = trained[name]
            kind = "start" if method.reference else method.how
            print(*map(shlex.quote, (kind, scripts[name], method.script, *method.flags)))


if __name__ == "__main__":
    main(sys.argv[1:])
