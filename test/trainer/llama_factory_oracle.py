"""What LLaMA-Factory itself makes of a dataset, row by row: its own loader, converter, processor, collator and model."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from llamafactory.data import (
    SFTDataCollatorWith4DAttentionMask,
    get_template_and_fix_tokenizer,
    loader,
)
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import get_dataset_list
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer

TRAINS, DROPS, DIES = "trains", "drops", "dies"


@dataclass
class RowOutcome:
    """What becomes of one row: trains, drops or dies; how; and its tokens, when it gets that far."""

    fate: str
    how: str = ""
    tokens: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass
class Outcome:
    """What becomes of a dataset: the error that stops it before any row, or its rows in the loader's order."""

    error: str = ""
    rows: list[RowOutcome] = field(default_factory=list)


class Oracle:
    """One LLaMA-Factory with a tiny base, asked about many datasets."""

    def __init__(self, model: Path, scratch: Path, **options: Any) -> None:
        self._scratch = scratch
        self._options = {
            "model_name_or_path": str(model),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "template": "qwen3_vl_nothink",
            "output_dir": str(scratch / "output"),
            "cache_dir": str(scratch / "cache"),
            "use_cpu": True,
            "overwrite_cache": True,
            "report_to": "none",
            "dataset": "none",
            **options,
        }
        arguments = get_train_args(dict(self._options))
        self._model_args, self._data_args, self._training_args, finetuning_args, _ = arguments
        module = load_tokenizer(self._model_args)
        self._tokenizer, self._processor = module["tokenizer"], module["processor"]
        self._template = get_template_and_fix_tokenizer(self._tokenizer, self._data_args)
        self._model = load_model(self._tokenizer, self._model_args, finetuning_args, True)
        self._collator = SFTDataCollatorWith4DAttentionMask(
            template=self._template,
            model=self._model,
            pad_to_multiple_of=8,
            label_pad_token_id=-100,
            attn_implementation="sdpa",
            compute_dtype=torch.float32,
            tokenizer=self._tokenizer,
            processor=self._processor,
        )

    def ask(self, dataset_dir: Path, name: str, cutoff_len: int = 2048, **options: Any) -> Outcome:
        """The fate of every row of dataset `name` in `dataset_dir`."""
        with _quiet(), self._fresh_cache():
            self._set(dataset_dir, cutoff_len, options)
            try:
                (attributes,) = get_dataset_list([name], str(dataset_dir))
                if attributes.ranking:
                    raise ValueError("The dataset is not applicable in the current training stage.")
                with mock.patch.object(loader, "align_dataset", lambda dataset, *_: dataset):
                    dataset = loader._load_single_dataset(
                        attributes, self._model_args, self._data_args, self._training_args
                    )
                next(iter(dataset))
                converter = get_dataset_converter(attributes.formatting, attributes, self._data_args)
            except Exception as error:
                return Outcome(error=_describe(error))
            return Outcome(rows=[self._ask_row(converter, dataset, index) for index in range(len(dataset))])

    def ask_whole(self, dataset_dir: Path, name: str, cutoff_len: int = 2048, **options: Any) -> str | int:
        """What the data path says to the dataset as a whole: the error, or the number of rows that are trained on."""
        tokenized = self.tokenize(dataset_dir, name, cutoff_len, **options)
        return tokenized if isinstance(tokenized, str) else len(tokenized)

    def tokenize(self, dataset_dir: Path, name: str, cutoff_len: int = 2048, **options: Any) -> str | Dataset:
        """The tokenized dataset that a training would get, good until the next question; or the error."""
        with _quiet(), self._fresh_cache():
            self._set(dataset_dir, cutoff_len, options)
            self._data_args.dataset = name.split(",")
            try:
                module = loader.get_dataset(
                    self._template, self._model_args, self._data_args, self._training_args, "sft",
                    self._tokenizer, self._processor,
                )  # fmt: skip
                return module["train_dataset"]
            except Exception as error:
                return _describe(error)

    def _set(self, dataset_dir: Path, cutoff_len: int, options: dict[str, Any]) -> None:
        defaults = {"max_samples": None, "preprocessing_num_workers": None, "preprocessing_batch_size": 1000}
        self._data_args.dataset_dir = self._data_args.media_dir = str(dataset_dir)
        self._data_args.cutoff_len = cutoff_len
        for name, value in (defaults | options).items():
            setattr(self._data_args, name, value)

    def _ask_row(self, converter: Any, dataset: Any, index: int) -> RowOutcome:
        processor = SupervisedDatasetProcessor(self._template, self._tokenizer, self._processor, self._data_args)
        try:
            example = converter(dataset[index])
            encoded = processor.preprocess_dataset({key: [value] for key, value in example.items()})
            if not encoded.get("input_ids"):
                return RowOutcome(DROPS)
            features = {key: value[0] for key, value in encoded.items()}
            tokens, labels = features["input_ids"], features["labels"]
            batch = self._collator([features])
            with torch.no_grad():
                loss = self._model(**batch).loss
            how = "" if torch.isfinite(loss) else "the loss is not finite"
            return RowOutcome(TRAINS, how, tokens, labels)
        except Exception as error:
            return RowOutcome(DIES, _describe(error))

    @contextlib.contextmanager
    def _fresh_cache(self) -> Iterator[None]:
        shutil.rmtree(self._scratch / "cache", ignore_errors=True)
        yield


def _describe(error: Exception) -> str:
    chain: BaseException | None = error
    while chain is not None and chain.__cause__ is not None:
        chain = chain.__cause__
    return f"{type(chain).__name__}: {str(chain)[:300]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import logging

    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
