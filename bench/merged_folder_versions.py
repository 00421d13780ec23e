"""Does one merged folder load, in its type, and answer alike in transformers 4.57 and 5?

    trainer/.venv/bin/python bench/merged_folder_versions.py --work DIR --other OTHER_VENV/bin/python

Merges an adapter with random values into the demo's base, to fp16 and to bf16, with tied and untied embeddings; then
both Pythons load each folder with dtype "auto" and answer twelve prompts, some with pictures. OTHER needs torch,
torchvision, pillow and transformers 4.57.6.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "trainer" / "merge_adapter.py"
BASE = ROOT / "demo" / "tiny-qwen3-vl"
PROMPTS = 12


def main() -> None:
    """Print what each version made of each folder; exit 1 where they disagree or a parameter has another type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--other", required=True, metavar="PYTHON")
    options = parser.parse_args()
    failed = False
    for dtype in ("fp16", "bf16"):
        for saved in ("none", "embed_tokens"):
            adapter, out = options.work / f"adapter-{saved}", options.work / f"merged-{dtype}-{saved}"
            run([sys.executable, __file__, "make_adapter", adapter, saved])
            run([sys.executable, PROGRAM, BASE, adapter, out, "--dtype", dtype])
            answers = [json.loads(run([python, __file__, "answer", out])) for python in (sys.executable, options.other)]
            wanted = {"fp16": "torch.float16", "bf16": "torch.bfloat16"}[dtype]
            equal = sum(a == b for a, b in zip(answers[0]["texts"], answers[1]["texts"], strict=True))
            good = equal == PROMPTS and all(answer["dtypes"] == [wanted] for answer in answers)
            failed |= not good
            versions = " and ".join(f"{answer['version']} {answer['dtypes']}" for answer in answers)
            print(f"{dtype}, modules_to_save {saved}: {versions}; {equal} of {PROMPTS} answers equal", flush=True)
            shutil.rmtree(out)
            shutil.rmtree(adapter)
    sys.exit(failed)


def make_adapter(folder: str, saved: str) -> None:
    """A random adapter on all linear layers of the text model, as PEFT saves it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(3)
    layers = r".*language_model.*(q|k|v|o|gate|up|down)_proj"
    lora = LoraConfig(r=8, target_modules=layers, modules_to_save=None if saved == "none" else [saved])
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32), lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    model.save_pretrained(folder)


def answer(folder: str) -> dict[str, Any]:
    """The version, the types of all parameters, and the greedy answers to fixed prompts."""
    import torch
    import transformers
    from PIL import Image, ImageDraw

    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    texts = []
    for number in range(PROMPTS):
        content: list[dict[str, Any]] = [{"type": "text", "text": ["Read the text in the image.", "姓名"][number % 2]}]
        if number % 3:
            image = Image.new("RGB", (128, 32), "white")
            ImageDraw.Draw(image).text((8, 8), f"AB{number}", fill="black")
            content.insert(0, {"type": "image", "image": image})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            tokens = model.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
        texts.append(processor.tokenizer.decode(tokens, skip_special_tokens=True))
    dtypes = sorted({str(parameter.dtype) for parameter in model.parameters()})
    return {"version": transformers.__version__, "dtypes": dtypes, "texts": texts}


def run(command: list[Any]) -> str:
    """Run a command and return what it printed last."""
    done = subprocess.run(
        [str(part) for part in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    lines = done.stdout.decode().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "make_adapter":
        make_adapter(*sys.argv[2:])
    elif len(sys.argv) > 1 and sys.argv[1] == "answer":
        print(json.dumps(answer(sys.argv[2])))
    else:
        main()
