"""Serve a fine-tuned Qwen3-VL folder through LLaMA-Factory's OpenAI-compatible API.

    python serving/serve.py --model runs/first/merged --name cards --port 8000

Greedy unless a request says `do_sample`. GET /health is 200 only while the model can answer. Whatever keeps it from
starting is one sentence on stderr and exit code 1. `--backend vllm` wants a Python that has vLLM.
"""

import argparse
import gc
import importlib.metadata
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from listening import claim_port, is_loopback, serve
from model_folder import StartError, check_model_folder

DRAIN_SECONDS = 15
# vLLM holds cache for a conversation of the full length, which for Qwen3-VL's own limit is more than most GPUs have.
VLLM_MAX_LENGTH = 8192
# docs/getting_started/installation/gpu/cuda.inc.md of vLLM 0.11.0: "compute capability 7.0 or higher".
VLLM_MIN_CAPABILITY = (7, 0)


def main() -> None:
    options = _parse_arguments()
    try:
        _start(options)
    except StartError as error:
        _fail(str(error))
    except Exception as error:
        traceback.print_exc()
        _fail(f"cannot serve {options.model}: {type(error).__name__}: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serve.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="the model folder to serve")
    parser.add_argument("--name", required=True, help="the name that clients give as `model`")
    parser.add_argument("--run", metavar="NAME", help="the run that the model is from, for GET /health")
    parser.add_argument("--model-digest", metavar="HEX", help="the model's digest in that run, for GET /health")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1; any wider one needs --api-key-env")
    parser.add_argument("--port", default=8000, type=int, help="default: 8000; 0 chooses a free one")
    parser.add_argument(
        "--backend", default="huggingface", choices=["huggingface", "vllm"], help="default: huggingface"
    )
    parser.add_argument("--template", default="qwen3_vl_nothink", help="training's template; default: qwen3_vl_nothink")
    parser.add_argument("--image-max-pixels", type=_positive, metavar="N", help="training's image_max_pixels")
    parser.add_argument("--image-min-pixels", type=_positive, metavar="N", help="training's image_min_pixels")
    parser.add_argument(
        "--max-length",
        type=_positive,
        metavar="N",
        help=f"tokens of question and answer together; default: the model's limit, with vllm {VLLM_MAX_LENGTH} at most",
    )
    parser.add_argument(
        "--gpu-memory-share",
        default=0.85,
        type=_share,
        metavar="X",
        help="with vllm: the share of the GPU's free memory that is taken; default: 0.85",
    )
    parser.add_argument(
        "--max-new-tokens",
        default=1024,
        type=_positive,
        metavar="N",
        help="tokens of an answer when a request gives no max_tokens",
    )
    parser.add_argument(
        "--api-key-env", metavar="VAR", help="the environment variable that holds the key clients must send"
    )
    parser.add_argument(
        "--published-on-loopback",
        action="store_true",
        help="in a container: its ports are published on the host's loopback alone, so that no key is needed",
    )
    parser.add_argument(
        "--ready-file", type=Path, metavar="PATH", help="gets {pid, port, url} once requests are accepted"
    )
    parser.add_argument("--cpu", action="store_true", help="serve on the CPU even if there is a GPU")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and 1")
    return number


def _start(options: argparse.Namespace) -> None:
    api_key = _read_key(options)
    config = check_model_folder(options.model)
    if options.backend == "vllm":
        _check_vllm(options.cpu)
    claimed = claim_port(options.host, options.port)
    _prepare_environment(options)
    if not options.cpu:
        _check_gpu(options, config)

    from api import build_app
    from health import Health, Served

    chat_model = _load(options, config)
    served = Served(options.name, options.model.resolve(), options.run, options.model_digest)
    app = build_app(chat_model, options.name, Health(chat_model.engine, served), api_key)
    # LLaMA-Factory collects garbage every five minutes and at the end: what was imported need not be looked at again.
    gc.freeze()
    serve(app, claimed, options.ready_file, DRAIN_SECONDS, chat_model.engine.close)


def _read_key(options: argparse.Namespace) -> str | None:
    key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
    if options.api_key_env and not key:
        raise StartError(f"the environment variable {options.api_key_env} that --api-key-env names is not set")
    if not key and not options.published_on_loopback and not is_loopback(options.host):
        raise StartError(
            f"--host {options.host} can be reached from outside: give a key with --api-key-env, or bind to 127.0.0.1"
        )
    return key or None


def _prepare_environment(options: argparse.Namespace) -> None:
    """What LLaMA-Factory and its libraries read from the environment; before they are imported."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        API_VERBOSE="0",
        LLAMAFACTORY_VERBOSITY="WARNING",
        API_MODEL_NAME=options.name,
        ALLOW_LOCAL_FILES="0",
        TOKENIZERS_PARALLELISM="false",
    )
    os.environ.pop("API_KEY", None)
    if options.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.backend == "vllm":
        os.environ.update(
            VLLM_LOGGING_LEVEL="WARNING",
            VLLM_NO_USAGE_STATS="1",
            VLLM_HOST_IP="127.0.0.1",
            VLLM_WORKER_MULTIPROC_METHOD="spawn",
        )
    if options.backend == "vllm" and options.cpu:
        os.environ.update(
            # LLaMA-Factory takes vLLM up to 0.11.0; the build for the CPU is called 0.11.0.post2.
            DISABLE_VERSION_CHECK="1",
            # What vLLM compiles for its sampler takes longer than the tests that the CPU is for.
            TORCHDYNAMO_DISABLE="1",
            VLLM_CPU_KVCACHE_SPACE=os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            # By itself every server would bind to the same core.
            VLLM_CPU_OMP_THREADS_BIND=",".join(map(str, sorted(os.sched_getaffinity(0)))),
        )


def _load(options: argparse.Namespace, config: dict[str, Any]):
    from llamafactory.chat import ChatModel

    arguments = {
        "model_name_or_path": str(options.model),
        "template": options.template,
        "do_sample": False,
        "max_new_tokens": options.max_new_tokens,
        "image_max_pixels": options.image_max_pixels,
        "image_min_pixels": options.image_min_pixels,
        **(_vllm(options, config) if options.backend == "vllm" else _huggingface()),
    }
    chat_model = ChatModel({key: value for key, value in arguments.items() if value is not None})
    if options.backend == "huggingface" and options.max_length is not None:
        chat_model.engine.max_length = min(options.max_length, chat_model.engine.max_length)
    return chat_model


def _huggingface() -> dict[str, Any]:
    import torch
    from llamafactory.chat import hf_engine

    from engine import ServedEngine

    hf_engine.HuggingfaceEngine = ServedEngine
    torch.set_grad_enabled(False)
    return {"infer_backend": "huggingface"}


def _vllm(options: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    from llamafactory.chat import vllm_engine as factory

    from vllm_engine import ServedVllmEngine, vllm_arguments

    factory.VllmEngine = ServedVllmEngine
    limit = config["text_config"]["max_position_embeddings"]
    return vllm_arguments(min(options.max_length or VLLM_MAX_LENGTH, limit), options.gpu_memory_share)


def _check_vllm(on_cpu: bool) -> None:
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise StartError(
            f"{sys.executable} has no vLLM: `npm run setup:vllm` makes serving/.venv-vllm, whose Python has it"
        ) from None
    if on_cpu != version.endswith("cpu"):
        raise StartError(
            f"vLLM {version} is not built for {'the CPU' if on_cpu else 'a GPU'}: "
            + ("leave out --cpu, or serve with --backend huggingface" if on_cpu else "serve with --cpu")
        )


def _check_gpu(options: argparse.Namespace, config: dict[str, Any]) -> None:
    import torch

    if not torch.cuda.is_available():
        raise StartError(
            "no GPU can be used here (torch sees none): look at nvidia-smi, or serve on the CPU with --cpu"
        )
    kinds = {part.get(key) for part in (config, config.get("text_config", {})) for key in ("dtype", "torch_dtype")}
    capability, name = torch.cuda.get_device_capability(), torch.cuda.get_device_name()
    if options.backend == "vllm" and capability < VLLM_MIN_CAPABILITY:
        raise StartError(f"this GPU ({name}) is older than vLLM's oldest: serve with --backend huggingface")
    if capability[0] < 8 and "bfloat16" in kinds:
        raise StartError(f"{options.model} is bfloat16, which this GPU ({name}) lacks: run `temper fp16` on it")


def _fail(sentence: str) -> NoReturn:
    print(f"serve.py: {sentence}", file=sys.stderr, flush=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
