"""Fine-tune the previous model on the next task with that model as a teacher (lwf).

Li & Hoiem (2016), "Learning without forgetting", for tasks that share one classifier: the loss is the cross-entropy on the new
task plus w · KD, with KD = −Σ_c softmax(z_old/T)_c · log softmax(z/T)_c, averaged over the utterances. z_old are the starting
model's logits, in evaluation mode, on the same new utterances. As in the paper there is no factor T².
"""

from utils.errors import one_line_errors
from utils.flags import non_negative_float, positive_float
from utils.training.arguments import add_start_flags, parse_training_args, training_parser
from utils.training.strategy import Strategy


class LearningWithoutForgetting(Strategy):
    """Adds w · KD.

    Args:
        run: the Run.
        weight: w.
        temperature: T.
    """

    def __init__(self, run, weight, temperature):
        self.run, self.weight, self.temperature = run, weight, temperature

    def prepare(self, model, optimizer, dataset):
        import torch

        from utils.training.engine import logits_of

        if self.weight:
            # Computed once for all epochs: utterances are always truncated the same way, and evaluation mode is deterministic.
            old = torch.from_numpy(logits_of(self.run, model, dataset, "logits of the starting model"))
            self.targets = (old / self.temperature).softmax(-1).to(self.run.accelerator.device)
        return {}

    def loss(self, model, batch, logits, share):
        from torch.nn.functional import cross_entropy

        if not self.weight:
            return None
        return share * self.weight * cross_entropy(logits.float() / self.temperature, self.targets[batch["indices"]])


@one_line_errors
def main():
    parser = training_parser(__doc__.split("\n")[0], "lwf")
    add_start_flags(parser)
    lwf = parser.add_argument_group("learning without forgetting")
    lwf.add_argument(
        "--lwf_weight", type=non_negative_float, default=1.0, help="w, distillation weight, without T²; 0 is finetune"
    )
    lwf.add_argument("--lwf_temperature", type=positive_float, default=2.0, help="T, distillation temperature")
    args = parse_training_args(parser)
    # Below parsing: torch takes seconds to import.
    from utils.training.engine import test_and_finish, train
    from utils.training.run import Run
    from utils.training.start import continue_sequence

    with Run(args, "lwf") as run:
        if run.is_finished():
            return
        _, tasks, model, before = continue_sequence(run)
        best_epoch = train(run, model, tasks, LearningWithoutForgetting(run, args.lwf_weight, args.lwf_temperature))
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
