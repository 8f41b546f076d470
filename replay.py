"""Fine-tune the previous model on the next task while replaying utterances of earlier tasks (er and derpp).

er, experience replay (Rolnick et al. 2019, "Experience replay for continual learning"): the loss is (1 − w) · CE on new
utterances + w · CE on replayed ones, with w = 1 − 1/t for the t-th task (van de Ven et al. 2022, "Three types of incremental
learning").

derpp, dark experience replay++ (Buzzega et al. 2020, "Dark experience for general continual learning", equation 6): the loss is
CE on new utterances + α · MSE(f(x'), z') + β · CE(f(x''), y''). x' and x'' are drawn independently; z' are the logits, in
evaluation mode, of the model right after learning the task of x'. MSE is the mean over utterances and classes.

The buffer holds M utterances of the earlier tasks' training splits, equally many per task: the first ones of a permutation
that depends only on the seed and the task's position in the sequence, so that the buffer of a later step is a subset of the
earlier one. For n new utterances n are drawn from the buffer, uniformly and with replacement.
"""

from utils.errors import UserError, one_line_errors
from utils.files import BUFFER
from utils.flags import between, count, non_negative_float
from utils.training.arguments import add_start_flags, parse_training_args, training_parser
from utils.training.strategy import Strategy


class Replay(Strategy):
    """Adds α · MSE(f(x'), z') + β · CE(f(x''), y'').

    Args:
        run: the Run.
        kept: the buffer, ``{task: UtteranceDataset}``.
        logits: z, a tensor (utterances, classes) in the order of ``kept``; not needed if α is 0.
        alpha, beta: α and β; 0 skips the term and its forward pass.
        cross_entropy_weight: weight of the cross-entropy on new utterances.
    """

    def __init__(self, run, kept, logits=None, alpha=0.0, beta=0.0, cross_entropy_weight=1.0):
        from utils.data.batches import UtteranceDataset

        self.run, self.kept, self.logits, self.alpha, self.beta = run, kept, logits, alpha, beta
        self.cross_entropy_weight = cross_entropy_weight
        self.buffer = UtteranceDataset.pooled(list(kept.values()))
        self.begin_step(0)

    def begin_step(self, step):
        """Seed the draws of this step in this process, so that a resumed run repeats them."""
        import torch

        from utils.data.batches import derived_seed

        self.step = step
        # The fourth number separates this seed from the engine's.
        seed = derived_seed(self.run.args.seed, step, 1 + self.run.accelerator.process_index, 1)
        self.generator = torch.Generator().manual_seed(seed)

    def loss(self, model, batch, logits, share):
        from torch.nn.functional import cross_entropy, mse_loss

        terms = []
        if self.alpha:
            drawn, replayed = self.replayed(model, len(logits))
            terms.append(self.alpha * mse_loss(replayed, self.logits[drawn["indices"]]))
        if self.beta:
            drawn, replayed = self.replayed(model, len(logits))
            terms.append(self.beta * cross_entropy(replayed, drawn["labels"]))
        return share * sum(terms) if terms else None

    def replayed(self, model, n):
        """A batch of ``n`` utterances from the buffer, and the model's logits (n, classes) for them."""
        import torch

        from utils.training.engine import to_device

        drawn = torch.randint(len(self.buffer), (n,), generator=self.generator).tolist()
        batch = to_device(self.buffer.collate([self.buffer[index] for index in drawn]), self.run.accelerator.device)
        return batch, model(batch["speech_inputs"], batch["text_inputs"]).float()

    def after_step(self):
        self.begin_step(self.step + 1)

    def after_task(self, run, model, dataset):
        """Write buffer.csv: task and segment_id of every kept utterance."""
        if run.accelerator.is_main_process:
            table = self.buffer.utterances[["segment_id"]].copy()
            table.insert(0, "task", [name for name, part in self.kept.items() for _ in range(len(part))])
            with run.file(BUFFER) as file:
                file.write(table.to_csv(index=False).encode())

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.begin_step(state["step"])


def kept_utterances(datasets, size, seed):
    """The buffer, ``{task: UtteranceDataset}``: ``size`` utterances in total; a task that has too few is kept whole.

    Args:
        datasets: the tasks' training splits, ``{task: UtteranceDataset}``, in the order in which they were learned.
        size: M.
        seed: of the draw.
    """
    import torch

    from utils.data.batches import derived_seed

    kept = {}
    for place, (name, dataset) in enumerate(datasets.items()):
        generator = torch.Generator().manual_seed(derived_seed(seed, place, 0, 1))
        order = torch.randperm(len(dataset), generator=generator).tolist()
        kept[name] = dataset.subset(order[: size // len(datasets)])
    return kept


def logits_when_learned(run, start, model, kept):
    """z of the buffer: logits (utterances, classes), each from the model right after learning that utterance's task.

    Args:
        run: a started Run.
        start: its StartingPoint.
        model: on the run's device, with the parameters of ``start``, which are restored afterwards.
        kept: ``{task: UtteranceDataset}``, of all earlier tasks.

    Raises:
        UserError: if the model of an earlier step is missing.
    """
    import torch

    from utils.training.engine import logits_of

    logits = []
    for point in start.models(run.args, model):
        name = point.sequence[-1]
        logits.append(torch.from_numpy(logits_of(run, model, kept[name], f"logits of {name}")))
    return torch.cat(logits).to(run.accelerator.device)


def replay(run, start, model, tasks):
    """The Strategy for a run's flags; None (plain fine-tuning) if the buffer is empty. Arguments as above."""
    args, earlier = run.args, run.args.sequence[:-1]
    if not args.buffer_size:
        return None
    if args.buffer_size < len(earlier):
        raise UserError(
            f"--buffer_size {args.buffer_size} is too small for {len(earlier)} earlier tasks: use at least {len(earlier)}"
        )
    kept = kept_utterances({name: tasks[name].splits["train"] for name in earlier}, args.buffer_size, args.seed)
    if args.dark:
        logits = logits_when_learned(run, start, model, kept) if args.der_alpha else None
        return Replay(run, kept, logits, args.der_alpha, args.der_beta)
    weight = 1 - 1 / len(args.sequence) if args.replay_weight is None else args.replay_weight
    return Replay(run, kept, beta=weight, cross_entropy_weight=1 - weight)


@one_line_errors
def main():
    parser = training_parser(__doc__.split("\n")[0], "er", "derpp")
    add_start_flags(parser)
    group = parser.add_argument_group("replay")
    group.add_argument(
        "--buffer_size",
        type=count,
        default=500,
        help="M, number of utterances kept from earlier tasks' training splits; 0 is finetune",
    )
    group.add_argument(
        "--replay_weight",
        type=between(float, 0, 1),
        help="w of er (default: 1 - 1/t for the t-th task); 0 is finetune",
    )
    group.add_argument("--dark", action="store_true", help="dark experience replay++ (derpp): replay logits too")
    group.add_argument(
        "--der_alpha", type=non_negative_float, default=0.3, help="α of derpp, weight of the squared error of logits"
    )
    group.add_argument(
        "--der_beta", type=non_negative_float, default=0.5, help="β of derpp, weight of the cross-entropy on kept utterances"
    )
    args = parse_training_args(parser)
    if not args.dark:  # config.json records what is used
        args.der_alpha = args.der_beta = None
    # Below parsing: torch takes seconds to import.
    from utils.training.engine import test_and_finish, train
    from utils.training.run import Run
    from utils.training.start import continue_sequence

    with Run(args, "derpp" if args.dark else "er") as run:
        if run.is_finished():
            return
        start, tasks, model, before = continue_sequence(run)
        best_epoch = train(run, model, tasks, replay(run, start, model, tasks))
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
