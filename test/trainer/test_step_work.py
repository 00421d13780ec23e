"""What a step asks of the model, counted from batches as LLaMA-Factory's collator makes them."""

import torch

import step_work


def count(*batches: dict[str, torch.Tensor], positions: list[int] | None = None) -> dict[str, int]:
    kept = [torch.arange(each) for each in positions or []]
    return step_work.named(step_work.counted(list(batches), kept).tolist())


def batch(*masks: list[int], **more: torch.Tensor) -> dict[str, torch.Tensor]:
    mask = torch.tensor(masks)
    return {"input_ids": torch.zeros_like(mask), "attention_mask": mask, **more}


def test_padding_counts_only_where_logits_are_computed_for_it() -> None:
    padded = batch([1, 1, 1, 1], [1, 1, 0, 0])
    assert count(padded) == {
        "tokens": 6, "attendedPairs": 10 + 3, "patches": 0, "patchPairs": 0, "logitPositions": 8,
    }  # fmt: skip
    assert count(padded, positions=[3])["logitPositions"] == 2 * 3


def test_micro_batches_of_different_shapes_add_up() -> None:
    both = count(batch([1, 1, 1]), batch([1, 1], [1, 0]), positions=[2, 1])
    assert both == {"tokens": 6, "attendedPairs": 6 + 3 + 1, "patches": 0, "patchPairs": 0, "logitPositions": 2 + 2}


def test_packed_rows_do_not_see_each_other() -> None:
    numbered = count(batch([1, 1, 1, 2, 2, 0]))
    assert (numbered["tokens"], numbered["attendedPairs"]) == (5, 6 + 3)
    sees = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    mask = torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]
    square = count({"input_ids": torch.zeros(1, 3, dtype=torch.long), "attention_mask": mask})
    assert (square["tokens"], square["attendedPairs"]) == (3, 4)


def test_patches_of_a_frame_see_each_other() -> None:
    grids = {"image_grid_thw": torch.tensor([[1, 4, 6], [1, 2, 2]]), "video_grid_thw": torch.tensor([[3, 2, 2]])}
    counted = count(batch([1, 1], **grids))
    assert (counted["patches"], counted["patchPairs"]) == (24 + 4 + 12, 24**2 + 4**2 + 3 * 4**2)


def test_a_batch_without_a_mask_has_no_padding() -> None:
    assert count({"input_ids": torch.zeros(2, 3, dtype=torch.long)})["attendedPairs"] == 2 * 6
