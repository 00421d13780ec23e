"""Qwen3-VL's vision tower without waits: what a picture's grid decides is computed once, equal pictures attend at once.

transformers 5.6 builds the position tables of every picture of every step from Python lists, and lets each picture
attend by itself, in each layer, after asking the GPU how long each one is. The tables are the same bit for bit here.
"""

from collections import OrderedDict
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen3_vl import modeling_qwen3_vl

GRIDS_KEPT = 512


@dataclass(frozen=True)
class GridTables:
    """What a grid of t × h × w patches decides, for each of its patches in the order of the tower's rows."""

    frames: tuple[int, ...]
    """Patches that attend to each other: those of a frame."""
    corners: torch.Tensor
    """(4, patches): which learned positions are around each patch."""
    shares: torch.Tensor
    """(4, patches): how much each of them weighs."""
    places: torch.Tensor
    """(patches, 2): row and column."""


class Grids:
    """The tables of the pictures of a micro-batch; those of the grids seen last are kept."""

    def __init__(self, tower: torch.nn.Module) -> None:
        self.tower = tower
        self.kept: OrderedDict[tuple[int, ...], GridTables] = OrderedDict()
        self.grids: list[tuple[int, ...]] = []
        self.tables: list[GridTables] = []
        self.frames: tuple[int, ...] = ()

    @torch.compiler.disable
    def learned_positions(self, grid_thw: torch.Tensor) -> torch.Tensor:
        """The position embedding of every patch: (patches, hidden)."""
        self.look_up(grid_thw)
        corners = torch.cat([each.corners for each in self.tables], dim=1)
        shares = torch.cat([each.shares for each in self.tables], dim=1)
        embedded = self.tower.pos_embed(corners) * shares[:, :, None]
        return embedded[0] + embedded[1] + embedded[2] + embedded[3]

    @torch.compiler.disable
    def rotary_positions(self, grid_thw: torch.Tensor) -> torch.Tensor:
        """The rotary angles of every patch: (patches, head size / 2). Called after `learned_positions` of the same."""
        largest = max(int(max(h, w)) for _, h, w in self.grids)
        angles = self.tower.rotary_pos_emb(largest)
        return angles[torch.cat([each.places for each in self.tables])].flatten(1)

    @torch.compiler.disable
    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention within each frame, all (patches, heads, head size); a compiler would begin anew for other sizes."""
        frames = self.frames
        if all(each == frames[0] for each in frames):
            return attend_in_rows(query, key, value, len(frames), frames[0])
        parts = zip(*(each.split(list(frames)) for each in (query, key, value)), strict=True)
        return torch.cat([attend_in_rows(*part, 1, len(part[0])) for part in parts])

    def look_up(self, grid_thw: torch.Tensor) -> None:
        self.grids = [tuple(grid) for grid in grid_thw.tolist()]
        self.tables = [self.of(grid) for grid in self.grids]
        self.frames = tuple(patches for each in self.tables for patches in each.frames)

    def of(self, grid: tuple[int, ...]) -> GridTables:
        if grid in self.kept:
            self.kept.move_to_end(grid)
            return self.kept[grid]
        tables = tables_of(self.tower, *grid)
        self.kept[grid] = tables
        if len(self.kept) > GRIDS_KEPT:
            self.kept.popitem(last=False)
        return tables


def tables_of(tower: Any, t: int, h: int, w: int) -> GridTables:
    """Bilinear interpolation of the learned positions over the grid, as Qwen3VLVisionModel computes it."""
    side, merge = tower.num_grid_per_side, tower.spatial_merge_size
    down, right = torch.linspace(0, side - 1, h), torch.linspace(0, side - 1, w)
    top, left = down.int(), right.int()
    bottom, farther = (top + 1).clip(max=side - 1), (left + 1).clip(max=side - 1)
    below, beside = down - top, right - left
    corners = [row[:, None] * side + column[None] for row in (top, bottom) for column in (left, farther)]
    shares = [a[:, None] * b[None] for a in (1 - below, below) for b in (1 - beside, beside)]
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")

    def ordered(patches: torch.Tensor) -> torch.Tensor:
        """A frame's (h, w) in the tower's order, merged patches side by side, for all frames."""
        blocks = patches.view(h // merge, merge, w // merge, merge).permute(0, 2, 1, 3)
        return blocks.flatten().repeat(t)

    device = tower.pos_embed.weight.device
    return GridTables(
        frames=(h * w,) * t,
        corners=torch.stack([ordered(each).long() for each in corners]).to(device),
        shares=torch.stack([ordered(each) for each in shares]).to(device, tower.pos_embed.weight.dtype),
        places=torch.stack([ordered(rows), ordered(columns)], dim=-1).to(device),
    )


def hasten(tower: Any) -> None:
    """Change how `tower` computes, if it is a Qwen3VLVisionModel; attention only where PyTorch's own is used."""
    if not isinstance(tower, modeling_qwen3_vl.Qwen3VLVisionModel):
        return
    grids = Grids(tower)
    tower.fast_pos_embed_interpolate = grids.learned_positions
    tower.rot_pos_emb = grids.rotary_positions
    if tower.config._attn_implementation == "sdpa":
        for block in tower.blocks:
            block.attn.grids = grids
            block.attn.forward = MethodType(attend, block.attn)


def attend(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    rotary_pos_emb: torch.Tensor | None = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Qwen3VLVisionAttention.forward: hidden_states (patches, hidden), cu_seqlens (frames + 1)."""
    patches = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).view(patches, 3, self.num_heads, -1).unbind(1)
    assert position_embeddings is not None
    query, key = modeling_qwen3_vl.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    attended = self.grids.attend(query, key, value)
    return self.proj(attended.reshape(patches, -1))


def attend_in_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: int, patches: int
) -> torch.Tensor:
    """Attention within each of `rows` frames of `patches`; takes and returns (rows × patches, heads, head size)."""
    query, key, value = (each.view(rows, patches, *each.shape[1:]).transpose(1, 2) for each in (query, key, value))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)

