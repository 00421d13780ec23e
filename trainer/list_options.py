"""List every option that LLaMA-Factory's training YAML takes, as configs/llamafactory-options.ts.

trainer/.venv/bin/python trainer/list_options.py            write the file
trainer/.venv/bin/python trainer/list_options.py --check    exit 1 if the file is not what the installed version says
"""

import argparse
import dataclasses
import enum
import json
import re
import sys
import types
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llamafactory.data.template import TEMPLATES
from llamafactory.hparams.parser import _TRAIN_ARGS

from protocol import write_whole

FILE = Path(__file__).resolve().parent.parent / "configs" / "llamafactory-options.ts"

HEADER = """\
// Every option of LLaMA-Factory {llamafactory} (with transformers {transformers}), as its argument classes declare it.
// Generated, never edited: trainer/.venv/bin/python trainer/list_options.py
// A type `names` is a comma-separated string or a list.

export type OptionType = 'int' | 'float' | 'bool' | 'string' | 'names' | 'list' | 'dict' | 'null';

export interface Option {{
  type: readonly OptionType[];
  default: unknown;
  choices?: readonly string[];
  help: string;
}}

export const llamaFactoryVersion = '{llamafactory}';

// prettier-ignore
export const templates = {templates} as const;

// prettier-ignore
export const options = {{
"""

PLAIN_TYPES = {int: "int", float: "float", bool: "bool", str: "string", type(None): "null", Path: "string"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is out of date")
    arguments = parser.parse_args()
    text = options_module()
    if arguments.check:
        if FILE.exists() and FILE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{FILE} is not what LLaMA-Factory {version('llamafactory')} says: run list_options.py", file=sys.stderr)
        return 1
    write_whole(FILE, text)
    return 0


def options_module() -> str:
    """The TypeScript module's text, in LLaMA-Factory's order; of two options of one name the first counts."""
    lines: dict[str, str] = {}
    for arguments_class in _TRAIN_ARGS:
        hints = typing.get_type_hints(arguments_class)
        for field in dataclasses.fields(arguments_class):
            if field.init and field.name not in lines:
                lines[field.name] = _line(arguments_class, field, hints[field.name])
    header = HEADER.format(
        llamafactory=version("llamafactory"),
        transformers=version("transformers"),
        templates=json.dumps(sorted(TEMPLATES)),
    )
    return header + "\n".join(lines.values()) + "\n} as const satisfies Record<string, Option>;\n"


def _line(arguments_class: type, field: dataclasses.Field, hint: Any) -> str:
    option_types, choices = _types(hint)
    if field.metadata.get("choices"):
        choices = list(field.metadata["choices"])
    default = _default(field)
    if default is None and "null" not in option_types:
        option_types.append("null")
    if "string" in option_types and not choices and _is_split_at_commas(arguments_class, field.name):
        option_types[option_types.index("string")] = "names"
    option = {"type": option_types, "default": default, "choices": choices or None, "help": _first_sentence(field)}
    pairs = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in option.items() if k != "choices" or v]
    return f"  {field.name}: {{ {', '.join(pairs)} }},"


def _types(hint: Any) -> tuple[list[str], list[str]]:
    """The option's types and, for enums and literals, its choices."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        option_types: list[str] = []
        choices: list[str] = []
        for part in typing.get_args(hint):
            part_types, part_choices = _types(part)
            option_types += [t for t in part_types if t not in option_types]
            choices += part_choices
        option_types.sort(key=lambda t: t == "null")
        return option_types, choices
    if origin is typing.Literal:
        literals = typing.get_args(hint)
        return sorted({PLAIN_TYPES[type(v)] for v in literals}), [v for v in literals if isinstance(v, str)]
    if origin is list:
        return ["list"], []
    if origin is dict or hint is dict:
        return ["dict"], []
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ["string"], [str(member.value) for member in hint]
    if hint in PLAIN_TYPES:
        return [PLAIN_TYPES[hint]], []
    return ["dict"], []


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = None
    return default.value if isinstance(default, enum.Enum) else default


def _is_split_at_commas(arguments_class: type, name: str) -> bool:
    """Whether the class itself makes a list of a string with commas, so that a list is as good."""
    given = {"model_name_or_path": "a", "dataset": "a"}
    own = {field.name for field in dataclasses.fields(arguments_class)}
    if arguments_class.__name__ == "TrainingArguments":
        return False
    try:
        arguments = arguments_class(**{k: v for k, v in given.items() if k in own} | {name: "a,b"})
    except (ValueError, TypeError, OSError, AttributeError):
        return False
    return getattr(arguments, name) == ["a", "b"]


def _first_sentence(field: dataclasses.Field) -> str:
    text = " ".join(str(field.metadata.get("help") or "").split())
    sentence = re.split(r"(?<=[a-z0-9)`'\"])\.(?=\s+[A-Z`(]|$)", text, maxsplit=1)[0]
    return sentence if len(sentence) <= 240 else sentence[:237].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    sys.exit(main())
