"""The loss as a mean over the global batch's answer tokens, so that every cut into micro-batches optimizes the same."""

import inspect
from typing import Any

import torch
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from torch.nn.functional import cross_entropy


class TokenMeanTrainer(CustomSeq2SeqTrainer):
    """LLaMA-Factory's trainer, with each token of the global batch weighing the same.

    LLaMA-Factory takes the mean of micro-batch means, in which short answers weigh more the smaller the micro-batch.
    With one micro-batch a step the two are equal. A loss chosen in the config (DFT, EAFT, ASFT, label smoothing) stays.
    Logits are computed only where some row of the micro-batch has an answer token, if the model can do that.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.token_mean = self.compute_loss_func is None and self.label_smoother is None
        if self.token_mean:
            self.compute_loss_func = token_mean_loss
        self.can_skip_logits = takes_logits_to_keep(self.model)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        if not self.token_mean:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch, **kwargs)
        targets = inputs["labels"][:, 1:]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if self.can_skip_logits and not (return_outputs and self.compute_metrics):
            positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
            outputs = model(**inputs, logits_to_keep=positions)
            loss = summed_cross_entropy(outputs.logits, targets[:, positions])
        else:
            outputs = model(**inputs)
            loss = summed_cross_entropy(outputs.logits[:, :-1], targets)
        loss = loss / answer_tokens(targets, num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """Count the tokens that are predicted: all labels but a row's first, which nothing comes before."""
        if not self.token_mean:
            return super()._get_num_items_in_batch(batch_samples, device)
        predicted = [{"labels": batch["labels"][..., 1:]} for batch in batch_samples]
        return super()._get_num_items_in_batch(predicted, device)


def token_mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> Any:
    """The same for a caller that has all logits: (rows, tokens, vocabulary) and labels (rows, tokens)."""
    targets = labels[:, 1:]
    return summed_cross_entropy(outputs.logits[:, :-1], targets) / answer_tokens(targets, num_items_in_batch)


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy summed over the targets that count; logits (rows, tokens, vocabulary), targets (rows, tokens)."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return cross_entropy(flat, targets.reshape(-1).to(logits.device), ignore_index=IGNORE_INDEX, reduction="sum")


def answer_tokens(targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """The divisor: the global batch's token count, or this micro-batch's; at least 1, so that no answer is no NaN."""
    count = (targets != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
    return count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1)


def takes_logits_to_keep(model: torch.nn.Module) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
