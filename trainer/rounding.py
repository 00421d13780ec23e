"""What is cast and rounded where, so that a faster way of training stays the same training."""

import torch


def leave_casts_to_autocast(model: torch.nn.Module) -> None:
    """Spare PEFT's own casts of every LoRA layer's input; only for a model that is trained under autocast.

    PEFT brings the input to the adapter's type, fp32, and autocast brings it back to 16 bits: values don't change on
    the way there and back, but each layer writes and reads its input twice more, forward and backward.
    """
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def round_as_eager_kernels_do() -> None:
    """Let compiled kernels round to 16 bits where the ones that they replace do.

    Fused, they would keep more digits in between: better arithmetic, but another training. An adapter's first, tiny
    changes are rounded away in bf16 and kept by fused kernels, and losses were 0.6 apart after one step.
    """
    import torch._inductor.config as inductor

    inductor.emulate_precision_casts = True
