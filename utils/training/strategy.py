"""What a method adds to fine-tuning."""


class Strategy:
    """The hooks of the training loop; as they stand here they are fine-tuning.

    The loop scales for several processes and micro-batches. A method with random draws of its own takes them from a generator
    that it seeds in ``prepare`` and whose state is in ``state_dict``, so that a resumed run repeats them.

    Attributes:
        cross_entropy_weight: of the cross-entropy on the new utterances, in the loss whose gradient is taken.
    """

    cross_entropy_weight = 1.0

    def prepare(self, model, optimizer, dataset):
        """Called once, before the first epoch or the one that a run resumes with.

        Args:
            model: not wrapped for several processes, on the run's device, with the parameters that it starts from, also where
                a run is resumed.
            optimizer: of its trained parameters.
            dataset: the UtteranceDataset that is trained on.

        Returns:
            A dictionary of what takes the place of the loop's own: ``optimizer``, ``sampler`` (see BalancedBatchSampler),
            ``class_weights`` of the loss (classes,), and ``score``, a function of an epoch's row in history.csv, of which the
            best epoch has the highest value.
        """
        return {}

    def loss(self, model, batch, logits, share):
        """A term beside the cross-entropy, such as distillation or replay.

        Args:
            model: in training mode, not wrapped for several processes; gradients of further passes are exchanged as well.
            batch: ``speech_inputs``, ``text_inputs``, ``labels`` and ``indices`` (into the dataset) of a micro-batch.
            logits: (utterances, classes), of this batch.
            share: of the utterances of the global batch that are in this one.

        Returns:
            The mean over this batch times ``share``, so that the terms of all micro-batches and processes add up to the mean
            over the global batch; None adds nothing.
        """
        return None

    def after_micro_batch(self):
        """Called after the backward pass of each micro-batch."""

    def after_backward(self):
        """Edit the gradients before a step, without autograd. Returns a penalty to log, a tensor of one number, or None."""
        return None

    def after_step(self):
        """Called after each optimizer step, without autograd."""

    def after_task(self, run, model, dataset):
        """Called when the model has the parameters of its best epoch; what it writes lies beside best_model.pt.

        Again, where the run was killed before it was finished.
        """

    def state_dict(self):
        """What a resumed run needs and no file holds: tensors and plain numbers."""
        return {}

    def load_state_dict(self, state):
        """Restore what ``state_dict`` gave, after ``prepare``."""
