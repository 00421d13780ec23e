"""What an optimizer step asks of the model, counted from its micro-batches, so that its FLOPs can be told.

`host/planning/mfu.ts` has the formula. Nothing here waits for the device.
"""

from typing import Any

import torch

COUNTS = ("tokens", "attendedPairs", "patches", "patchPairs", "logitPositions")


def counted(batches: list[dict[str, Any]], positions: list[torch.Tensor]) -> torch.Tensor:
    """The sum over the micro-batches of what COUNTS names; `positions` are those with logits, none for all.

    tokens: without padding. attendedPairs: a token and one that it sees, itself included. patches: of pictures and
    videos. patchPairs: two patches of one frame, which see each other. logitPositions: rows × positions.
    """
    rows = [batch["input_ids"].shape[0] for batch in batches]
    logits = [len(each) * count for each, count in zip(positions, rows, strict=True)] if positions else None
    if logits is None:
        logits = [batch["input_ids"].numel() for batch in batches]
    counts = torch.stack([torch.cat([*text(batch), *pictures(batch)]) for batch in batches]).sum(dim=0)
    return torch.cat([counts, torch.tensor([sum(logits)], device=counts.device)])


def named(counts: list[int]) -> dict[str, int]:
    return dict(zip(COUNTS, counts, strict=True))


def text(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and pairs by the mask (rows, tokens): 0 is padding, else the number of the row that a token is from."""
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    if mask.dim() == 4:  # packed rows, as LLaMA-Factory's collator gives them: 0 where one may look
        return torch.tensor([ids.numel()], device=ids.device), (mask == 0).sum().reshape(1)
    lengths = torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.long, device=mask.device)
    lengths = lengths.scatter_add_(1, mask.long(), torch.ones_like(mask, dtype=torch.long))[:, 1:]
    return lengths.sum().reshape(1), (lengths * (lengths + 1) // 2).sum().reshape(1)


def pictures(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches, and pairs of them, by the grids (pictures, 3): frames, patches down, patches across."""
    device = batch["input_ids"].device
    grids = [grid.to(device) for name in ("image_grid_thw", "video_grid_thw") if (grid := batch.get(name)) is not None]
    if not grids:
        return torch.zeros(1, dtype=torch.long, device=device), torch.zeros(1, dtype=torch.long, device=device)
    frames, down, across = torch.cat(grids).long().T
    in_frame = down * across
    return (frames * in_frame).sum().reshape(1), (frames * in_frame**2).sum().reshape(1)
