"""The loss as a mean over the global batch's answer tokens, so that every cut into micro-batches optimizes the same."""

import inspect
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import DistributedType
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from torch.nn.functional import cross_entropy, pad
from transformers.trainer_utils import has_length

import step_work
from faster_model import base_of, make_faster, spare_walks, trained_parameters
from rounding import leave_casts_to_autocast, round_as_eager_kernels_do
from run_callbacks import RunCallback

# Where the accelerator clips whatever parameters it is given; sharded ones it knows by itself.
CLIPS_ALL_ALIKE = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


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
        if self.args.bf16 or self.args.fp16:
            leave_casts_to_autocast(self.model)
        make_faster(self.model, compiled=self.args.torch_compile)
        self.trained = trained_parameters(self.model)
        spare_walks(self.model, self.trained)
        self.needs_no_mask = needs_no_mask(self.model, self.data_collator)
        if self.args.torch_compile and torch.cuda.is_available():
            round_as_eager_kernels_do()
        self.positions: deque[torch.Tensor] = deque()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """Fetch a step's micro-batches, and ask the GPU all that must be known of them at once, while it is idle."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.leave_out_repeated_rows(batches[-1]):
            count = self._get_num_items_in_batch(batches, device)
        self.positions.clear()
        if batches and self.token_mean and self.can_skip_logits:
            self.positions.extend(answer_positions([batch["labels"] for batch in batches]))
        if batches:
            self.note_work(batches, device)
        return batches, count

    def leave_out_repeated_rows(self, batch: dict[str, Any]) -> bool:
        """Take the labels off rows that only fill an epoch's last batches up; True where all must count anew.

        Every rank must have as many rows as the others, so the first ones of the epoch come once more at its end.
        Without labels they weigh nothing, and the last step is that of one process.
        """
        ranks = self.accelerator.num_processes
        ends_epoch = ranks > 1 and self.accelerator.gradient_state.end_of_dataloader
        if not (ends_epoch and self.token_mean and has_length(self.train_dataset)) or self.args.dataloader_drop_last:
            return False
        rows = batch["labels"].shape[0]
        left = len(self.train_dataset) % (rows * ranks) or rows * ranks
        mine = min(max(left - self.accelerator.process_index * rows, 0), rows)
        batch["labels"][mine:] = IGNORE_INDEX
        return True

    def note_work(self, batches: list[Any], device: torch.device) -> None:
        counts = step_work.counted(batches, list(self.positions)).to(device)
        work = step_work.named(self.accelerator.reduce(counts, reduction="sum").tolist())
        if self.args.include_num_input_tokens_seen == "no":
            self.state.num_input_tokens_seen += work["tokens"]
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, RunCallback):
                callback.work = work

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
        if self.needs_no_mask and model.training:
            inputs = without_mask(inputs)
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

    @cached_property
    def parameters_without_embeddings(self) -> int:
        return self.model.num_parameters(exclude_embeddings=True)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The Trainer's own estimate, 6 × tokens × parameters, which are counted once."""
        return 6 * inputs["input_ids"].numel() * self.parameters_without_embeddings

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        if self.trained is None or self.accelerator.distributed_type not in CLIPS_ALL_ALIKE:
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm)

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

    At least one, which the loss passes over where no row has an answer. One wait for the device for all micro-batches.
    """
    wanted = [(labels[:, 1:] != IGNORE_INDEX).any(dim=0) for labels in batches]
    for each in wanted:
        each[:1] |= ~each.any()
    on_host = torch.cat(wanted).cpu().split([len(each) for each in wanted])
    return [
        each.nonzero().squeeze(1).to(labels.device, non_blocking=True)
        for each, labels in zip(on_host, batches, strict=True)
    ]


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """The label of each position's next token; the last one has none."""
    return pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy summed over the targets that count; logits (rows, tokens, vocabulary), targets (rows, tokens)."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return cross_entropy(flat, targets.reshape(-1).to(logits.device), ignore_index=IGNORE_INDEX, reduction="sum")


def answer_tokens(targets: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """The divisor: the global batch's token count, or this micro-batch's; at least 1, so that no answer is no NaN."""
    count = (targets != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
    return count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1)


def takes_logits_to_keep(model: torch.nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(base_of(model).forward).parameters


def without_mask(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs (position_ids: (3 or 4, rows, tokens)) for rows whose padding needs no mask.

    Of four position ids the first is the text's, which transformers would take for several packed rows where it jumps
    over a picture; rotary embeddings use the other three alone.
    """
    positions = inputs.get("position_ids")
    if positions is None or positions.ndim != 3:
        return inputs
    kept = {name: value for name, value in inputs.items() if name != "attention_mask"}
    return {**kept, "position_ids": positions[-3:]}


def needs_no_mask(model: torch.nn.Module, collator: Any) -> bool:
    """Whether rows are padded at their end and attend to what is before them, so that none ever sees padding.

    Without a mask PyTorch's attention computes half as much and in faster kernels. Only where that is so by the
    collator's own making, and pictures' positions come with the rows.
    """
    padded_at_end = getattr(getattr(collator, "tokenizer", None), "padding_side", None) == "right"
    packed = getattr(collator, "neat_packing", True) or getattr(collator, "block_diag_attn", True)
    attention = getattr(getattr(model, "config", None), "_attn_implementation", None)
    on_gpu = next(model.parameters()).is_cuda
    return on_gpu and padded_at_end and not packed and attention == "sdpa"
