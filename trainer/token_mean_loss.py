"""The loss as a mean over the global batch's answer tokens, so that every cut into micro-batches optimizes the same."""

import inspect
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from torch.nn.functional import cross_entropy, pad


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
        self.positions: deque[torch.Tensor] = deque()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """Fetch a step's micro-batches, and ask the GPU all that must be known of them at once, while it is idle."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.positions.clear()
        if batches and self.token_mean and self.can_skip_logits:
            self.positions.extend(answer_positions([batch["labels"] for batch in batches]))
        if batches and self.args.include_num_input_tokens_seen == "no":
            tokens = torch.stack([real_tokens(batch) for batch in batches]).sum().to(device)
            self.state.num_input_tokens_seen += int(self.accelerator.reduce(tokens, reduction="sum").item())
        return batches, count

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
        labels = inputs["labels"]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        if self.can_skip_logits and not (return_outputs and self.compute_metrics):
            fetched = self.positions and not return_outputs
            positions = self.positions.popleft() if fetched else answer_positions([labels])[0]
            outputs = model(**inputs, logits_to_keep=positions)
            targets = labels[:, positions + 1]
        else:
            outputs = model(**inputs)
            targets = next_tokens(labels)
        loss = summed_cross_entropy(outputs.logits, targets) / answer_tokens(targets, num_items_in_batch)
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
    targets = next_tokens(labels)
    return summed_cross_entropy(outputs.logits, targets) / answer_tokens(targets, num_items_in_batch)


def answer_positions(batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """For each micro-batch's labels (rows, tokens) the positions whose next token is an answer's in some row.

    One wait for the device, however many micro-batches.
    """
    wanted = [(labels[:, 1:] != IGNORE_INDEX).any(dim=0) for labels in batches]
    on_host = torch.cat(wanted).cpu().split([len(each) for each in wanted])
    return [
        each.nonzero().squeeze(1).to(labels.device, non_blocking=True)
        for each, labels in zip(on_host, batches, strict=True)
    ]


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """The label of each position's next token; the last one has none."""
    return pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def real_tokens(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """How many tokens of a micro-batch are no padding; packed rows, whose mask has four dimensions, have none."""
    mask = batch.get("attention_mask")
    return mask.sum() if mask is not None and mask.dim() == 2 else torch.tensor(batch["input_ids"].numel())


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
