"""Fine-tune the other corpus's best model on this one under elastic weight consolidation (setting ewc).

Kirkpatrick et al. (2017), "Overcoming catastrophic forgetting in neural networks", equation 3: the penalty
λ/2 · Σ F_i (θ_i − θ*_i)² holds every parameter near its value θ* after the first task, the more so the more Fisher
information F_i the first task gave it.
"""

import torch
from torch.nn.functional import cross_entropy

from utils.data.batches import ordered_loader
from utils.errors import one_line_errors
from utils.files import FISHER
from utils.flags import non_negative_float, positive_int
from utils.training.arguments import add_start_flags, other_task, parse_training_args, training_parser
from utils.training.engine import progress_bar, test_and_finish, to_device, train
from utils.training.run import Run
from utils.training.start import continue_from_first_task


def fisher_information(run, model, dataset, batch_size):
    """Diagonal Fisher information of a model on a training set, in evaluation mode and table order.

    F = Σ_b n_b g_b² / N, with g_b the gradient of the mean cross-entropy (true labels) of batch b of n_b utterances. With
    batches of 1 this is the exact empirical Fisher information; larger batches, as published, give smaller values, so
    that λ goes with the batch size.

    Args:
        run: the Run; several processes share the batches.
        model: on the run's device.
        dataset: the first task's training split.
        batch_size: utterances a batch.

    Returns:
        A dictionary from the name of each trained parameter to a tensor of its shape.
    """
    accelerator = run.accelerator
    loader = ordered_loader(dataset, batch_size, run.args.num_workers, accelerator.process_index, accelerator.num_processes)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    model.eval()
    for batch in progress_bar(run, loader, "Fisher information"):
        speech_inputs, text_inputs, labels = to_device(batch, accelerator.device)
        loss = cross_entropy(model(speech_inputs, text_inputs), labels)
        # SpecAugment's mask embedding takes no part in evaluation mode: its information is zero.
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients):
            if gradient is not None:
                fisher[name].addcmul_(gradient, gradient, value=len(labels) / len(dataset))
        del gradients, gradient  # as large as the model: not beside those of the next batch
    if accelerator.num_processes > 1:
        fisher = {name: accelerator.reduce(values) for name, values in fisher.items()}
    return fisher


class ElasticPenalty:
    """λ/2 · Σ F_i (θ_i − θ*_i)², anchored at the model's present parameters θ*.

    Its gradient λ F (θ − θ*) is added to the cross-entropy's: a penalty inside the autograd graph would hold several
    more copies of the model in memory for the same numbers.

    Args:
        model: at θ*.
        fisher: F by parameter name, as ``fisher_information`` returns it.
        ewc_lambda: λ.
    """

    def __init__(self, model, fisher, ewc_lambda):
        self.ewc_lambda = ewc_lambda
        self.terms = [
            (parameter, parameter.detach().clone(), fisher[name])
            for name, parameter in model.named_parameters()
            if name in fisher
        ]

    @torch.no_grad()
    def add_gradient(self):
        """Add the penalty's gradient to that of every parameter; returns the penalty, a tensor of one number."""
        penalty = torch.zeros((), device=self.terms[0][0].device)
        for parameter, anchor, fisher in self.terms:
            if parameter.grad is None:
                continue  # the loss does not reach it, so it does not move, and the optimizer leaves it alone as in finetune
            distance = parameter - anchor
            gradient = (fisher * distance).mul_(self.ewc_lambda)
            penalty += torch.dot(gradient.flatten(), distance.flatten()) / 2
            parameter.grad += gradient
        return penalty


@one_line_errors
def main():
    parser = training_parser(__doc__.split("\n")[0], exp_name="ewc")
    add_start_flags(parser)
    ewc = parser.add_argument_group("elastic weight consolidation")
    ewc.add_argument(
        "--ewc_lambda", type=non_negative_float, default=5000.0, help="λ, the weight of the penalty; 0 is finetune"
    )
    ewc.add_argument(
        "--fisher_batch_size", type=positive_int, default=10, help="utterances a gradient in F; 1 is exact, and λ goes with it"
    )
    args = parse_training_args(parser)

    with Run(args, "ewc") as run:
        if run.is_finished():
            return
        tasks, model, before = continue_from_first_task(run)
        # Always the first task's training set: it is what the penalty guards.
        first_task = tasks[other_task(args.task)]
        parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        fisher = run.once(
            FISHER,
            lambda: fisher_information(run, model, first_task.splits["train"], args.fisher_batch_size),
            like=parameters,
        )
        best_epoch = train(run, model, tasks, ElasticPenalty(model, fisher, args.ewc_lambda))
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()
