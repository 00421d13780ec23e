"""Rows to conversations, as LLaMA-Factory 0.9.5 does it in `data/converter.py`, with a word on every loss."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from dataset.info import Entry
from dataset.problems import Problem

PLACEHOLDERS = {"images": "<image>", "videos": "<video>", "audios": "<audio>"}
_ONE = {"images": "picture", "videos": "video", "audios": "audio file"}


@dataclass(slots=True)
class Conversation:
    """One row as LLaMA-Factory would train on it: turns of (role, text), alternating, an answer last."""

    turns: list[tuple[str, str]]
    system: str = ""
    tools: str = ""
    images: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)


class RowRefused(Exception):
    """The row cannot be trained on; carries the problem, still without row and file."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def convert(row: dict[str, Any], entry: Entry) -> tuple[Conversation | None, list[Problem]]:
    """A row as a conversation, None if LLaMA-Factory would die on it or drop it; problems lack row and file."""
    problems: list[Problem] = []
    try:
        if entry.formatting == "alpaca":
            conversation = _convert_alpaca(row, entry, problems)
        else:
            conversation = _convert_turns(row, entry, problems)
        _check_contents(conversation, entry)
        _check_placeholders(conversation, row, entry, problems)
        _check_tools(conversation)
    except RowRefused as refusal:
        return None, [*problems, refusal.problem]
    return conversation, problems


def used_columns(entry: Entry) -> list[str]:
    """The file's columns that LLaMA-Factory reads without asking whether they exist."""
    names = ["images", "videos", "audios"]
    if entry.formatting == "alpaca":
        names += ["prompt", "query", "response", "history", "system", "tools", "kto_tag"]
    elif entry.formatting == "sharegpt":
        names += ["messages", "system", "tools", "kto_tag"]
    else:
        names += ["messages", "kto_tag"]
    return [column for name in names if (column := entry.columns[name])]


def _refuse(code: str, what: str, fix: str, effect: Any = "dies", **more: Any) -> RowRefused:
    return RowRefused(Problem(code, what, fix, effect=effect, **more))


def _convert_alpaca(row: dict[str, Any], entry: Entry, problems: list[Problem]) -> Conversation:
    columns = entry.columns
    turns: list[tuple[str, Any]] = []
    history = row.get(columns["history"]) if columns["history"] else None
    if isinstance(history, list):
        for index, pair in enumerate(history):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                what = f"the earlier turn is {_short(pair)}, not a pair of question and answer"
                raise _refuse(
                    "history-shape", what, 'Write ["question", "answer"]', field=f"{columns['history']}[{index}]"
                )
            turns += [("user", pair[0]), ("assistant", pair[1])]
    elif history is not None:
        what = f"the history is {_short(history)}, not a list, and is ignored"
        fix = 'Write [["question", "answer"], …]'
        problems.append(
            Problem("history-shape", what, fix, severity="warning", effect="differs", field=columns["history"])
        )
    parts = []
    for name in ("prompt", "query"):
        column = columns[name]
        value = row.get(column) if column else None
        if value:
            if not isinstance(value, str):
                raise _refuse("content-type", f"the question is {_short(value)}, not text", "Write text", field=column)
            parts.append(value)
    turns.append(("user", "\n".join(parts)))
    answer = row.get(columns["response"]) if columns["response"] else None
    if columns["kto_tag"] and isinstance(row.get(columns["kto_tag"]), bool):
        what = "the row has a preference label, which makes it a row for KTO, not for supervised fine-tuning"
        raise _refuse("kto", what, "Remove kto_tag from columns", "drops", field=columns["kto_tag"])
    if not isinstance(answer, str):
        what = "the row has no answer" if answer is None else f"the answer is {_short(answer)}, not text"
        fix = "Write the answer as text" if columns["response"] else "Name the answer's column as columns.response"
        raise _refuse("answer-missing", what, fix, "drops", field=columns["response"])
    turns.append(("assistant", answer))
    return Conversation(
        turns,
        system=_text_or_empty(row, columns["system"]),
        tools=_text_or_empty(row, columns["tools"]),
        images=_media(row, columns["images"]),
        videos=_media(row, columns["videos"]),
    )


def _convert_turns(row: dict[str, Any], entry: Entry, problems: list[Problem]) -> Conversation:
    columns, tags = entry.columns, entry.tags
    column = columns["messages"]
    if column is None:
        what = "dataset_info.json names no column for the messages"
        raise _refuse("messages-missing", what, 'Add "messages": "<column>" to columns', how="KeyError")
    messages = row.get(column)
    if not isinstance(messages, list):
        what = "there are no messages" if messages is None else f"the messages are {_short(messages)}, not a list"
        raise _refuse("messages-missing", what, "Write a list of turns", field=column)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            what = f"the turn is {_short(message)}, not an object"
            raise _refuse("message-shape", what, f"Write {_turn_form(tags)}", field=f"{column}[{index}]")
    role_key, content_key = tags["role_tag"], tags["content_tag"]
    system: Any = ""
    offset = 0
    if tags["system_tag"] and messages and messages[0].get(role_key) == tags["system_tag"]:
        system = messages[0].get(content_key)
        offset = 1
    elif columns["system"]:
        system = row.get(columns["system"])
    system = _system_text(system, f"{column}[0].{content_key}" if offset else columns["system"])

    turns = (
        _merge_openai(messages[offset:], entry)
        if entry.formatting == "openai"
        else [
            (message.get(role_key), message.get(content_key), index + offset)
            for index, message in enumerate(messages[offset:])
        ]
    )
    roles = {
        tags["user_tag"]: "user",
        tags["assistant_tag"]: "assistant",
        tags["observation_tag"]: "observation",
        tags["function_tag"]: "function",
        tags["system_tag"]: "system",
    }
    accepted = (
        (tags["user_tag"], tags["observation_tag"]),
        (tags["assistant_tag"], tags["function_tag"]),
    )
    if not turns:
        what = "there is a system prompt and nothing else" if offset else "there are no turns"
        raise _refuse("messages-empty", what, "Add a question and an answer", "drops", field=column)
    aligned = []
    for position, (role, content, index) in enumerate(turns):
        where = f"{column}[{index}]"
        if role not in accepted[position % 2]:
            raise _role_refused(role, position, where, messages[index], entry)
        if (
            roles[role] == "system"
        ):  # only when a tag is missing from dataset_info.json: the key None means several roles
            what = f"the turn has no {role_key!r}"
            raise _refuse("role-missing", what, f"Write {_turn_form(tags)}", field=where)
        aligned.append((roles[role], content))
    if len(aligned) % 2 != 0:
        what = f"there are {len(aligned)} turns; the last has no answer"
        fix = "Add the answer, or remove the last turn"
        raise _refuse("message-count", what, fix, "drops", field=column)
    if columns["kto_tag"] and isinstance(row.get(columns["kto_tag"]), bool):
        what = "the row has a preference label, which makes it a row for KTO, not for supervised fine-tuning"
        raise _refuse("kto", what, "Remove kto_tag from columns", "drops", field=columns["kto_tag"])
    tools = row.get(columns["tools"]) if columns["tools"] else ""
    if entry.formatting == "openai" and isinstance(tools, (dict, list)):
        tools = json.dumps(tools, ensure_ascii=False)
    return Conversation(
        aligned,
        system=system,
        tools=tools or "",
        images=_media(row, columns["images"]),
        videos=_media(row, columns["videos"]),
    )


def _merge_openai(messages: list[dict[str, Any]], entry: Entry) -> list[tuple[Any, Any, int]]:
    """OpenAI form: consecutive tool results become one turn, tool_calls become a function call; others stay."""
    tags = entry.tags
    turns: list[tuple[Any, Any, int]] = []
    results: list[Any] = []
    for index, message in enumerate(messages):
        role, content = message.get(tags["role_tag"]), message.get(tags["content_tag"])
        if role in (tags["assistant_tag"], tags["function_tag"]) and (calls := message.get("tool_calls")):
            try:
                content = json.dumps([call["function"] for call in calls], ensure_ascii=False)
            except (KeyError, TypeError) as error:
                what = f"tool_calls has an entry without 'function' ({error})"
                raise _refuse("tool-calls", what, 'Write [{"function": {…}}]', field=f"messages[{index}]") from error
            role = tags["function_tag"]
        if role == tags["observation_tag"]:
            results.append(content)
            continue
        if results:
            turns.append((tags["observation_tag"], _join_results(results), index - 1))
            results = []
        turns.append((role, content, index))
    return turns


def _join_results(results: list[Any]) -> str:
    try:
        return "\n</tool_response>\n<tool_response>\n".join(results)
    except TypeError as error:
        raise _refuse("content-type", f"a tool's result is not text ({error})", "Write text") from error


def _role_refused(role: Any, position: int, where: str, message: dict[str, Any], entry: Entry) -> RowRefused:
    tags = entry.tags
    role_key = tags["role_tag"]
    expected = (
        [tag for tag in ("user_tag", "observation_tag") if tags[tag]]
        if position % 2 == 0
        else [tag for tag in ("assistant_tag", "function_tag") if tags[tag]]
    )
    names = " or ".join(repr(tags[tag]) for tag in expected) or "no role at all, since tags names none"
    known = [tag for tag in tags.values() if tag]
    if role_key not in message or role is None:
        keys = ", ".join(sorted(key for key, value in message.items() if value is not None))
        what = f"the turn has no {role_key!r} (it has {keys or 'nothing'}); {names} is expected here"
        return _refuse("role-missing", what, f"Write {_turn_form(tags)}", "drops", field=where)
    if isinstance(role, str) and role == "system":
        if position == 0 and tags["system_tag"] is None:
            what = "the system prompt is not recognized, because tags in dataset_info.json lacks system_tag"
            return _refuse("system-tag-missing", what, 'Add "system_tag": "system" to tags', "drops", field=where)
        what = "a system prompt stands in the middle"
        return _refuse("role-order", what, "Keep one, and first", "drops", field=where)
    if role in known:
        what = f"role {role!r} stands where {names} is expected; questions and answers must alternate"
        return _refuse("role-order", what, "Put the turns in order, or merge neighbors", "drops", field=where)
    near = next((tag for tag in known if isinstance(role, str) and tag.strip().lower() == role.strip().lower()), None)
    fix = f"Write {near!r}, exactly" if near else f"Write {names}, or name this role in tags"
    return _refuse("role-unknown", f"role {role!r} is unknown; {names} is expected here", fix, "drops", field=where)


def _turn_form(tags: dict[str, str | None]) -> str:
    return "{" + f'"{tags["role_tag"]}": …, "{tags["content_tag"]}": …' + "}"


def _text_or_empty(row: dict[str, Any], column: str | None) -> str:
    value = row.get(column) if column else ""
    return _system_text(value, column)


def _system_text(value: Any, where: str | None) -> str:
    if not value:
        return ""
    if not isinstance(value, str):
        raise _refuse("content-type", f"the value is {_short(value)}, not text", "Write text", field=where)
    return value


def _media(row: dict[str, Any], column: str | None) -> list[Any]:
    value = row.get(column) if column else None
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _check_contents(conversation: Conversation, entry: Entry) -> None:
    column = entry.columns["messages"] if entry.formatting != "alpaca" else None
    for index, (role, content) in enumerate(conversation.turns):
        if isinstance(content, str):
            continue
        where = f"{column} turn {index}" if column else ("question" if role == "user" else "answer")
        if content is None:
            what = f"the {role}'s turn has no text"
        elif isinstance(content, list):
            what = f"the {role}'s turn is a list of parts, not one text with <image> where a picture stands"
        else:
            what = f"the {role}'s turn is {_short(content)}, not text"
        raise _refuse("content-type", what, "Write text", field=where)


def _check_placeholders(conversation: Conversation, row: dict[str, Any], entry: Entry, problems: list[Problem]) -> None:
    audios = _media(row, entry.columns["audios"])
    if audios:
        what = "the row has audio, which this model cannot hear"
        raise _refuse("audio", what, "Remove the audio column", field=entry.columns["audios"])
    for kind, placeholder in PLACEHOLDERS.items():
        listed = 0 if kind == "audios" else len(getattr(conversation, kind))
        found = sum(content.count(placeholder) for _, content in conversation.turns)
        if found == listed:
            continue
        one = _ONE[kind]
        what = f"the text has {found} {placeholder} and the row lists {listed} {one}{'' if listed == 1 else 's'}"
        fix = f"Write {placeholder} once for each {one}"
        if found and not listed and entry.columns[kind] is None:
            what += f"; dataset_info.json names no column for {kind}"
            fix = f'Add "{kind}": "<column>" to columns, or remove {placeholder} from the text'
        elif placeholder in conversation.system:
            what += f" (the one in the system prompt does not count: only turns may show a {one})"
            fix = f"Move {placeholder} from the system prompt to the question"
        raise _refuse("placeholder-count", what, fix, field=entry.columns[kind])
    if any(placeholder in conversation.system for placeholder in PLACEHOLDERS.values()):
        what = "the system prompt has a placeholder, which stays plain text there"
        problems.append(
            Problem("placeholder-in-system", what, "Remove it", severity="warning", effect="trains", field="system")
        )
    for role, content in conversation.turns:
        if role in ("assistant", "function") and any(mark in content for mark in PLACEHOLDERS.values()):
            what = "a placeholder stands in the answer, so the model would be taught to write picture tokens"
            fix = "Move it to the question, or spell it otherwise"
            raise _refuse("placeholder-in-answer", what, fix, "differs", field="answer")


def _check_tools(conversation: Conversation) -> None:
    if conversation.tools:
        if not isinstance(conversation.tools, str):
            what = f"tools is {_short(conversation.tools)}, not JSON written as text"
            raise _refuse("tools-invalid", what, "Write the list of tools as a JSON text", field="tools")
        try:
            tools = json.loads(conversation.tools)
            if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
                raise ValueError("it is not a list of objects")
        except ValueError as error:
            what = f"tools is no JSON list of tools ({error})"
            raise _refuse("tools-invalid", what, 'Write [{"name": …, "parameters": …}]', field="tools") from error
    for index, (role, content) in enumerate(conversation.turns):
        if role == "function":
            _check_function_call(content, index)


def _check_function_call(content: str, index: int) -> None:
    match = re.search(r"<tool_call>(.*?)</tool_call>", content, re.DOTALL)
    if match:
        text = match.group(1)
    else:
        thought = re.search(r"<think>\n(.*?)\n</think>\n\n", content, re.DOTALL)
        text = content.replace(thought.group(0), "") if thought else content
    try:
        calls = json.loads(text)
        for call in calls if isinstance(calls, list) else [calls]:
            _ = call["name"], call["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        what = f"the function call is no JSON with name and arguments ({type(error).__name__}: {error})"
        fix = 'Write {"name": …, "arguments": {…}}'
        raise _refuse("function-invalid", what, fix, field=f"turn {index}") from error


def _short(value: Any) -> str:
    kind = {
        type(None): "null",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
    }.get(type(value), f"a {type(value).__name__}")
    text = repr(value)
    return kind if value is None else f"{kind} ({text[:40]}{'…' if len(text) > 40 else ''})"
