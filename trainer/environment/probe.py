"""Imports what training imports and lets LLaMA-Factory's own parser read a YAML; run as a process of its own.

Usage: probe.py CONFIG.yaml. Prints one JSON object on stdout:
{"versions": {…}, "imported": null | error, "parsed": null | error, "options": [names]}; errors {"type", "message"}.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _one_gpu()
    result: dict[str, Any] = {"versions": {}, "imported": None, "parsed": None, "options": []}
    try:
        import torch

        result["versions"] = {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudaArchs": torch._C._cuda_getArchFlags().split() if torch.version.cuda else [],
        }
        from llamafactory.hparams import parser
        from llamafactory.train import tuner  # noqa: F401  (what training imports)
    except BaseException as error:
        result["imported"] = _describe(error)
    else:
        import dataclasses

        result["options"] = sorted({field.name for group in parser._TRAIN_ARGS for field in dataclasses.fields(group)})
        try:
            _parse(Path(sys.argv[1]), parser)
        except BaseException as error:
            result["parsed"] = _describe(error)
    json.dump(result, output)
    output.close()
    # Interpreters that imported CUDA libraries take their time to shut down.
    os._exit(0)


def _parse(config: Path, parser: Any) -> None:
    from omegaconf import OmegaConf

    arguments = OmegaConf.to_container(OmegaConf.load(config.absolute()))
    # An output_dir that holds a checkpoint makes the parser resume or refuse: that is the training's matter.
    if isinstance(arguments, dict) and "output_dir" in arguments:
        arguments["output_dir"] = os.path.join(os.path.dirname(config.absolute()), ".not-there")
    try:
        parser.get_train_args(arguments)
    except ValueError as error:
        # It sees no launcher here; training starts several processes through torchrun.
        if "FORCE_TORCHRUN" not in str(error):
            raise


def _one_gpu() -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "0" if visible is None else visible.split(",")[0]


def _describe(error: BaseException) -> dict[str, str]:
    import traceback

    traceback.print_exception(error)
    return {"type": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    main()
