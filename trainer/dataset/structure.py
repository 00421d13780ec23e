"""Rows to conversations, as LLaMA-Factory 0.9.5 does it in `data/converter.py`, with a word on every loss."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from dataset.columns import Type, say
from dataset.info import Entry
from dataset.problems import Effect, Problem

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


def column_problem(entry: Entry, types: dict[str, Type]) -> Problem | None:
    """What is wrong with the columns as a whole: one that is missing, or turns without the configured keys."""
    if not types:
        return None
    has = ", ".join(sorted(types)) or "nothing"
    for column in used_columns(entry):
        if column not in types:
            what = f"column {column!r} is in no row; the rows have {has}"
            given = any(column == value for value in entry.columns.values()) and entry.formatting != "alpaca"
            fix = f"Correct columns of {entry.name!r} in dataset_info.json"
            if not given or column in ("conversations", "instruction", "input", "output"):
                fix += ", where a key that is left out of a columns block counts as absent"
            return Problem("column-missing", what, fix, how="KeyError", field=column)
    if entry.formatting == "alpaca":
        return _alpaca_problem(entry)
    return _turns_problem(entry, types)


def _alpaca_problem(entry: Entry) -> Problem | None:
    if entry.columns["response"] is None:
        what = "dataset_info.json names no column for the answers, so no row has one"
        if entry.columns["messages"] not in (None, "conversations") or "role" in str(entry.tags["role_tag"]):
            what += "; the entry lacks formatting, so it counts as alpaca"
            fix = 'Add "formatting": "sharegpt"'
        else:
            fix = 'Add "response": "<column>" to columns'
        return Problem("answer-missing", what, fix, effect="drops", how="every row: Cannot find valid samples")
    return None


def _turns_problem(entry: Entry, types: dict[str, Type]) -> Problem | None:
    column, tags = entry.columns["messages"], entry.tags
    if column is None:
        what = "dataset_info.json names no column for the messages"
        return Problem("messages-missing", what, 'Add "messages": "<column>" to columns', how="KeyError")
    kind = types[column]
    if isinstance(kind, str) or kind[0] != "list" or isinstance(kind[1], str) or kind[1][0] != "object":
        inner = kind[1] if isinstance(kind, tuple) and kind[0] == "list" else kind
        if inner == "null":
            return None
        what = f"column {column!r} holds {say(kind)}, not lists of turns"
        if isinstance(kind, tuple) and kind[0] == "list":
            what = f"column {column!r} holds lists of {say(inner).removeprefix('a ')}, not of turns"
        return Problem("messages-missing", what, f"Write a list of {_turn_form(tags)}", field=column)
    for tag in ("role_tag", "content_tag"):
        if tags[tag] not in kind[1][1]:
            what = f"no turn has the key {tags[tag]!r}; turns have {', '.join(sorted(kind[1][1])) or 'nothing'}"
            fix = f'Set "{tag}" in tags of {entry.name!r} in dataset_info.json'
            return Problem("tag-missing", what, fix, how="KeyError", field=column)
    if entry.formatting == "openai":
        return Problem(
            "openai-system",
            'with formatting openai LLaMA-Factory adds "detailed thinking off" to every system prompt; Temper does not',
            "Use formatting sharegpt with the same tags, which adds nothing",
            "warning",
            "differs",
        )
    return None


def _refuse(code: str, what: str, fix: str, effect: Effect = "dies", **more: Any) -> RowRefused:
    return RowRefused(Problem(code, what, fix, effect=effect, **more))


def _convert_alpaca(row: dict[str, Any], entry: Entry, problems: list[Problem]) -> Conversation:
    columns = entry.columns
    turns: list[tuple[str, Any]] = _history(row, columns["history"], problems)
    parts = []
    for name in ("prompt", "query"):
        column = columns[name]
        value = row.get(column) if column else None
        if not value:
            continue
        if not isinstance(value, str):
            raise _refuse("content-type", f"the question is {_short(value)}, not text", "Write text", field=column)
        parts.append(value)
    turns.append(("user", "\n".join(parts)))
    answer = row.get(columns["response"]) if columns["response"] else None
    _refuse_preference(row, entry)
    if not isinstance(answer, str):
        what = "the row has no answer" if answer is None else f"the answer is {_short(answer)}, not text"
        raise _refuse("answer-missing", what, "Write the answer as text", "drops", field=columns["response"])
    turns.append(("assistant", answer))
    tools = row.get(columns["tools"]) if columns["tools"] else ""
    return Conversation(
        turns,
        system=_system_text(row.get(columns["system"]) if columns["system"] else "", columns["system"]),
        tools=tools or "",
        images=_media(row, columns["images"]),
        videos=_media(row, columns["videos"]),
    )


def _history(row: dict[str, Any], column: str | None, problems: list[Problem]) -> list[tuple[str, Any]]:
    history = row.get(column) if column else None
    if history is None:
        return []
    if not isinstance(history, list):
        what, fix = f"the history is {_short(history)}, not a list, and is ignored", 'Write [["question", "answer"], …]'
        problems.append(Problem("history-shape", what, fix, "warning", "differs", field=column))
        return []
    turns: list[tuple[str, Any]] = []
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            what = f"the earlier turn is {_short(pair)}, not a pair of question and answer"
            raise _refuse("history-shape", what, 'Write ["question", "answer"]', field=f"{column}[{index}]")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns


def _convert_turns(row: dict[str, Any], entry: Entry, problems: list[Problem]) -> Conversation:
    columns, tags = entry.columns, entry.tags
    column = columns["messages"]
    assert column is not None
    messages = row.get(column)
    if not isinstance(messages, list):
        what = "there are no messages" if messages is None else f"the messages are {_short(messages)}, not a list"
        raise _refuse("messages-missing", what, f"Write a list of {_turn_form(tags)}", field=column)
    offset = int(
        bool(messages and tags["system_tag"] and _turn(messages, 0, entry).get(tags["role_tag"]) == tags["system_tag"])
    )
    if offset:
        system, system_field = messages[0].get(tags["content_tag"]), f"{column}[0]"
    else:
        system, system_field = row.get(columns["system"]) if columns["system"] else "", columns["system"]
    turns = (
        _merged(messages, offset, entry, problems) if entry.formatting == "openai" else _plain(messages, offset, entry)
    )
    if not turns:
        what = "there is a system prompt and nothing else" if offset else "there are no turns"
        raise _refuse("messages-empty", what, "Add a question and an answer", "drops", field=column)
    aligned = _align(turns, messages, entry)
    if len(aligned) % 2 != 0:
        what = f"there are {len(aligned)} turns, so the last has no answer"
        raise _refuse("message-count", what, "Add the answer, or remove the last turn", "drops", field=column)
    _refuse_preference(row, entry)
    tools = row.get(columns["tools"]) if columns["tools"] else ""
    if entry.formatting == "openai" and isinstance(tools, (dict, list)):
        tools = json.dumps(tools, ensure_ascii=False)
    return Conversation(
        aligned,
        system=_system_text(system, system_field),
        tools=tools or "",
        images=_media(row, columns["images"]),
        videos=_media(row, columns["videos"]),
    )


def _turn(messages: list[Any], index: int, entry: Entry) -> dict[str, Any]:
    message = messages[index]
    if isinstance(message, dict):
        return message
    where = f"{entry.columns['messages']}[{index}]"
    what = f"the turn is {_short(message)}, not an object"
    raise _refuse("message-shape", what, f"Write {_turn_form(entry.tags)}", field=where)


def _plain(messages: list[Any], offset: int, entry: Entry) -> list[tuple[Any, Any, int]]:
    """(role, content, number in the row) of each turn; those after a shape error are judged no more."""
    turns: list[tuple[Any, Any, int]] = []
    for index in range(offset, len(messages)):
        message = messages[index]
        if not isinstance(message, dict):
            _align(turns, messages, entry)  # a wrong role before it makes LLaMA-Factory drop the row first
            _turn(messages, index, entry)
        turns.append((message.get(entry.tags["role_tag"]), message.get(entry.tags["content_tag"]), index))
    return turns


def _merged(messages: list[Any], offset: int, entry: Entry, problems: list[Problem]) -> list[tuple[Any, Any, int]]:
    """OpenAI form: results of tools in a row become one turn, tool_calls become a function call, others stay."""
    tags, column = entry.tags, entry.columns["messages"]
    turns: list[tuple[Any, Any, int]] = []
    results: list[Any] = []
    for index in range(offset, len(messages)):
        message = _turn(messages, index, entry)
        role, content = message.get(tags["role_tag"]), message.get(tags["content_tag"])
        if role in (tags["assistant_tag"], tags["function_tag"]) and (calls := message.get("tool_calls")):
            try:
                content = json.dumps([call["function"] for call in calls], ensure_ascii=False)
            except (KeyError, TypeError) as error:
                what = f"tool_calls has an entry without 'function' ({error})"
                raise _refuse("tool-calls", what, 'Write [{"function": …}]', field=f"{column}[{index}]") from error
            role = tags["function_tag"]
        if role == tags["observation_tag"]:
            results.append(content)
            continue
        if results:
            turns.append((tags["observation_tag"], _join(results, f"{column}[{index - 1}]"), index - 1))
            results = []
        if role not in tags.values() or role == tags["role_tag"]:
            raise _role_refused(role, len(turns), f"{column}[{index}]", message, entry, "dies")
        turns.append((role, content, index))
    if results:
        what, fix = "a tool's result stands last and is left out", "Add the answer that follows it"
        problems.append(
            Problem("tool-result-last", what, fix, "warning", "differs", field=f"{column}[{len(messages) - 1}]")
        )
    return turns


def _join(results: list[Any], where: str) -> str:
    if not all(isinstance(result, str) for result in results):
        raise _refuse("content-type", "a tool's result is not text", "Write text", field=where)
    return "\n</tool_response>\n<tool_response>\n".join(results)


def _align(turns: list[tuple[Any, Any, int]], messages: list[Any], entry: Entry) -> list[tuple[str, Any]]:
    """The turns in LLaMA-Factory's own roles; raises RowRefused at the first that stands in the wrong place."""
    tags = entry.tags
    roles = {
        tags["user_tag"]: "user",
        tags["assistant_tag"]: "assistant",
        tags["observation_tag"]: "observation",
        tags["function_tag"]: "function",
        tags["system_tag"]: "system",
    }
    accepted = (tags["user_tag"], tags["observation_tag"]), (tags["assistant_tag"], tags["function_tag"])
    aligned = []
    for position, (role, content, index) in enumerate(turns):
        where = f"{entry.columns['messages']}[{index}]"
        if role not in accepted[position % 2]:
            raise _role_refused(role, position, where, messages[index], entry, "drops")
        # Tags left out of dataset_info.json all share the key None, and the last of them wins: mostly "system".
        if (roles[role] in ("user", "observation")) != (position % 2 == 0) or roles[role] == "system":
            what = f"the turn has no {tags['role_tag']!r}"
            raise _refuse("role-missing", what, f"Write {_turn_form(tags)}", field=where)
        aligned.append((roles[role], content))
    return aligned


def _role_refused(
    role: Any, position: int, where: str, message: dict[str, Any], entry: Entry, effect: Effect
) -> RowRefused:
    tags = entry.tags
    role_key = tags["role_tag"]
    expected = ("user_tag", "observation_tag") if position % 2 == 0 else ("assistant_tag", "function_tag")
    names = " or ".join(repr(tags[tag]) for tag in expected if tags[tag]) or "no role at all, since tags names none"
    known = [value for tag, value in tags.items() if value and tag not in ("role_tag", "content_tag")]
    if role is None:
        keys = ", ".join(sorted(key for key, value in message.items() if value is not None))
        what = f"the turn has no {role_key!r} (it has {keys or 'nothing'}); {names} is expected here"
        return _refuse("role-missing", what, f"Write {_turn_form(tags)}", effect, field=where)
    if role == "system" and position == 0 and tags["system_tag"] is None:
        what = "the system prompt is not recognized, because tags in dataset_info.json lacks system_tag"
        return _refuse("system-tag-missing", what, 'Add "system_tag": "system" to tags', effect, field=where)
    if role == tags["system_tag"]:
        what = "a system prompt stands in the middle"
        return _refuse("role-order", what, "Keep one, and first", "drops", field=where)
    if role in known:
        what = f"role {role!r} stands where {names} is expected; questions and answers must alternate"
        return _refuse("role-order", what, "Put the turns in order, or merge neighbors", "drops", field=where)
    near = next((tag for tag in known if isinstance(role, str) and tag.strip().lower() == role.strip().lower()), None)
    fix = f"Write {near!r}, exactly" if near else f"Write {names}, or name this role in tags"
    return _refuse("role-unknown", f"role {role!r} is unknown; {names} is expected here", fix, effect, field=where)


def _refuse_preference(row: dict[str, Any], entry: Entry) -> None:
    column = entry.columns["kto_tag"]
    if column and isinstance(row.get(column), bool):
        what = "the row has a preference label, which makes it a row for KTO, not for supervised fine-tuning"
        raise _refuse("kto", what, "Remove kto_tag from columns", "drops", field=column)


def _turn_form(tags: dict[str, str | None]) -> str:
    return "{" + f'"{tags["role_tag"]}": …, "{tags["content_tag"]}": …' + "}"


def _system_text(value: Any, where: str | None) -> str:
    if not value:
        return ""
    if not isinstance(value, str):
        raise _refuse("content-type", f"the system prompt is {_short(value)}, not text", "Write text", field=where)
    return value


def _media(row: dict[str, Any], column: str | None) -> list[Any]:
    value = row.get(column) if column else None
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _check_contents(conversation: Conversation, entry: Entry) -> None:
    for index, (role, content) in enumerate(conversation.turns):
        if isinstance(content, str):
            continue
        if content is None:
            what = f"the {role}'s turn has no text"
        elif isinstance(content, list):
            what = f"the {role}'s turn is a list of parts, not one text with <image> where a picture stands"
        else:
            what = f"the {role}'s turn is {_short(content)}, not text"
        raise _refuse("content-type", what, "Write text", field=f"turn {index}")


def _check_placeholders(conversation: Conversation, row: dict[str, Any], entry: Entry, problems: list[Problem]) -> None:
    if _media(row, entry.columns["audios"]):
        what = "the row has audio, which this model cannot hear"
        raise _refuse("audio", what, "Remove the audio column", field=entry.columns["audios"])
    if "<" in conversation.system and any(placeholder in conversation.system for placeholder in PLACEHOLDERS.values()):
        what = "the system prompt has a placeholder, which stays plain text there"
        problems.append(Problem("placeholder-in-system", what, "Remove it", "warning", "trains", field="system"))
    if (
        not conversation.images
        and not conversation.videos
        and not any("<" in content for _, content in conversation.turns)
    ):
        return
    for kind, placeholder in PLACEHOLDERS.items():
        listed = 0 if kind == "audios" else len(getattr(conversation, kind))
        found = sum(content.count(placeholder) for _, content in conversation.turns)
        if found != listed:
            raise _count_refused(kind, found, listed, conversation, entry)
    for index, (role, content) in enumerate(conversation.turns):
        if role in ("assistant", "function") and any(mark in content for mark in PLACEHOLDERS.values()):
            what = "a placeholder stands in the answer, so the model would be taught to write picture tokens"
            fix = "Move it to the question, or spell it otherwise"
            raise _refuse("placeholder-in-answer", what, fix, "differs", field=f"turn {index}")


def _count_refused(kind: str, found: int, listed: int, conversation: Conversation, entry: Entry) -> RowRefused:
    placeholder, one = PLACEHOLDERS[kind], _ONE[kind]
    what = f"the text has {found} {placeholder} and the row lists {listed} {one}{'' if listed == 1 else 's'}"
    fix = f"Write {placeholder} once for each {one}"
    if found and not listed and entry.columns[kind] is None:
        what += f"; dataset_info.json names no column for {kind}"
        fix = f'Add "{kind}": "<column>" to columns, or remove {placeholder} from the text'
    elif placeholder in conversation.system:
        what += f" (the one in the system prompt does not count: only turns may show a {one})"
        fix = f"Move {placeholder} from the system prompt to the question"
    elif listed and not found:
        fix += ", where it is to be seen"
    return _refuse("placeholder-count", what, fix, field=entry.columns[kind])


def _check_tools(conversation: Conversation) -> None:
    if conversation.tools:
        if not isinstance(conversation.tools, str):
            what = f"tools is {_short(conversation.tools)}, not JSON written as text"
            raise _refuse("tools-invalid", what, "Write the list of tools as a JSON text", field="tools")
        try:
            tools = json.loads(conversation.tools)
            if len(tools) and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
                raise ValueError("it is no list of objects")
        except (ValueError, TypeError) as error:
            what = f"tools is no JSON list of tools ({error})"
            raise _refuse("tools-invalid", what, 'Write [{"name": …, "parameters": …}]', field="tools") from error
    for index, (role, content) in enumerate(conversation.turns):
        if role == "function":
            _check_function_call(content, index)


def function_calls(content: str) -> tuple[str, list[dict[str, Any]]]:
    """A function's turn, taken apart: the text before, and the calls; raises ValueError, KeyError or TypeError."""
    match = re.search(r"<tool_call>(.*?)</tool_call>", content, re.DOTALL)
    if match:
        before, text = content.replace(match.group(0), ""), match.group(1)
    else:
        thought = re.search(r"<think>\n(.*?)\n</think>\n\n", content, re.DOTALL)
        before = thought.group(0) if thought else ""
        text = content.replace(before, "") if thought else content
    calls = json.loads(text)
    return before, [
        {"name": call["name"], "arguments": call["arguments"]}
        for call in (calls if isinstance(calls, list) else [calls])
    ]


def _check_function_call(content: str, index: int) -> None:
    try:
        function_calls(content)
    except (ValueError, KeyError, TypeError) as error:
        what = f"the function call is no JSON with name and arguments ({type(error).__name__}: {error})"
        fix = 'Write {"name": …, "arguments": {…}}'
        raise _refuse("function-invalid", what, fix, field=f"turn {index}") from error


def _short(value: Any) -> str:
    kinds = {bool: "a truth value", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    if value is None:
        return "null"
    text = repr(value)
    return f"{kinds.get(type(value), f'a {type(value).__name__}')} ({text[:40]}{'…' if len(text) > 40 else ''})"
