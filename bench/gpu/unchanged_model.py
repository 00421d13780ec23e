"""Temper's trainer with the model computing as transformers and PEFT let it: unchanged_model.py ARGUMENTS_OF_TRAIN_PY."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "trainer"))

import token_mean_loss
import train

token_mean_loss.make_faster = lambda model, compiled: None
token_mean_loss.needs_no_mask = lambda model, collator: False

if __name__ == "__main__":
    sys.exit(train.main())
