"""What the continual settings (finetune, ewc) share: they go on from the model of the corpus that was learned first."""

import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path

from models import FusionClassifier
from utils.errors import UserError
from utils.files import CONFIG, METRICS, sha256
from utils.identity import fold_digest, starting_checkpoint
from utils.training.arguments import other_task
from utils.training.checkpoints import is_export, misfit, read_config, read_export, read_weights, require_same_encoders
from utils.training.engine import test


def continue_from_first_task(run):
    """Start a run on ``--task`` from the best model of the other corpus, and test that model on both.

    Args:
        run: a Run that is not finished; its flags are those of ``utils.training.arguments.add_start_flags`` too.

    Returns:
        (tasks, model, before): ``{name: Task}`` with the first task first, the FusionClassifier, and its Evaluation on each
        test split before the first epoch.
    """
    args = run.args
    first_task = other_task(args.task)
    starting_point = StartingPoint.find(run, first_task)
    tasks = run.load_tasks([first_task, args.task])
    starting_point.require_same_fold(tasks[first_task])
    run.seed()
    model = FusionClassifier.from_pretrained(args.text_model, args.speech_model)
    run.start(model, tasks, started_from=starting_point.load_into(model))
    return tasks, model, test(run, model, tasks)


@dataclass(frozen=True)
class StartingPoint:
    """The best model of the first task, which finetune and ewc go on from.

    Attributes:
        path: its best_model.pt, or a file that utils/results/export.py made of it.
        config: the config.json beside it, {} where there is none; of an exported file what it says itself.
    """

    path: Path
    config: dict

    @classmethod
    def find(cls, run, first_task):
        """The checkpoint named by ``--checkpoint``, or that of ``--init_name`` for the same fold.

        Raises:
            UserError: if there is none, or its config.json is damaged, or says that it is not a fusion model of
                ``first_task`` that was kept from the test sessions of this run's fold.
        """
        args = run.args
        path = starting_checkpoint(args)
        if args.checkpoint is None:
            if not (path.parent / METRICS).exists():
                command = (
                    f"python continual_learning_init.py --task {first_task} --num_fold {args.num_fold} "
                    f"--exp_name {shlex.quote(args.init_name)}"
                )
                raise UserError(
                    f"no finished run in {path.parent} to start from: make it with '{command}', or name a --checkpoint"
                )
            run.say(f"starting from {path}")
        if not path.is_file():
            raise UserError(
                f"--checkpoint {path}: there is no such file; it should be the best_model.pt of a run on {first_task}"
            )
        config_path = path.parent / CONFIG
        if not is_export(path) and not zipfile.is_zipfile(path):
            run.say(f"{path} is in torch's file format from before 2020, which holds no checksum: damage to it is not noticed")
        if is_export(path):
            config = read_export(path)[1]
        elif config_path.exists():
            try:
                config = read_config(config_path)
            except UserError as error:
                raise UserError(
                    f"{error}; if it is of something else, put {path.name} into a folder without a {CONFIG}"
                ) from None
        else:
            config = {}
            run.say(f"{path} has no config.json beside it: its task, fold and encoders cannot be checked")
        expected = {"task": first_task, "fold": args.num_fold, "k_fold": args.k_fold}
        for name, value in expected.items():
            if config.get(name, value) != value:
                raise UserError(
                    f"--checkpoint {path} is of {name} {config[name]}, and this run goes on from {name} {value} "
                    f"(training on {args.task}, fold {args.num_fold} of {args.k_fold})"
                )
        if args.task in config.get("corpora", {}):
            raise UserError(
                f"--checkpoint {path} has already been trained on {args.task} ({config['method']}): what it forgets cannot be "
                f"told; name the best_model.pt of a run on {first_task} alone"
            )
        return cls(path, config)

    def require_same_fold(self, task):
        """Raise UserError if the first task's test sessions are not those that the checkpoint was kept from."""
        corpora = self.config.get("corpora", {})
        if task.name not in corpora:
            return
        then = corpora[task.name]
        if not isinstance(then, str):
            then = fold_digest(then["splits"])
        if then != fold_digest({split: {"sessions": sessions} for split, sessions in task.fold.items()}):
            raise UserError(
                f"--checkpoint {self.path} was trained on other sessions of {task.name} than this fold has now, and may have "
                f"seen the test split: train it again on the corpus in {task.corpus.root}"
            )

    def load_into(self, model):
        """Give a fusion model the checkpoint's parameters. Returns the facts for config.json.

        Raises:
            UserError: if the checkpoint is corrupt, could run code, is not finite, or of another architecture or encoders.
        """
        require_same_encoders(model, self.config, self.path)
        state = read_weights(self.path)
        wrong = misfit(state, model.state_dict())
        if wrong:
            raise UserError(
                f"--checkpoint {self.path} does not fit: {wrong}; it should be a whole fusion model over "
                "--text_model and --speech_model as named"
            )
        model.load_checkpoint_state(state)
        origin = {name: self.config.get(name) for name in ("method", "task")}
        return {"checkpoint": str(self.path), "sha256": sha256(self.path), **origin}
