"""The types of a file's columns, as Arrow infers them: one type a column, and no way back once it is settled.

A type is a name ("null", "bool", "int", "float", "text", "time", "bytes"), ("list", type) or ("object", {key: type}).
While an array is read, integers are also told apart that are "negative" or "large", beyond 63 bits: no type holds both.
"""

from typing import Any

Type = str | tuple[str, Any]
NULL = "null"

_SAYS = {
    "null": "nothing",
    "bool": "a truth value",
    "int": "a number",
    "negative": "a number",
    "large": "a number",
    "float": "a number",
    "text": "text",
    "time": "a time",
    "bytes": "bytes",
    "list": "a list",
    "object": "an object",
}


class Conflict(Exception):
    """Two values of one column that no type fits; the message says where and what."""

    def __init__(self, path: str, before: Type, after: Type) -> None:
        super().__init__(f"{path} is {say(after)}, after {say(before)} before it")
        self.path = path


class TooLarge(Exception):
    """An integer beyond 64 bits."""


def say(kind: Type) -> str:
    """The type in words."""
    return _SAYS.get(kind if isinstance(kind, str) else kind[0], str(kind))


def extend(known: Type, value: Any, path: str) -> Type:
    """The type that fits both what was `known` of a column and one more JSON value; raises Conflict when none does."""
    if value is None:
        return known
    kind = type(value)
    if kind is str:
        return "text" if known == "text" or known == NULL else _clash(path, known, "text")
    if kind is list:
        if known == NULL:
            inner: Type = NULL
        elif known[0] == "list":
            inner = known[1]
        else:
            _clash(path, known, ("list", NULL))
        start = inner
        for item in value:
            inner = extend(inner, item, f"{path}[]")
        return known if inner is start and known != NULL else ("list", inner)
    if kind is dict:
        if known == NULL:
            known = ("object", {})
        elif known[0] != "object":
            _clash(path, known, ("object", {}))
        fields = known[1]
        for key, item in value.items():
            before = fields.get(key, NULL)
            after = extend(before, item, f"{path}.{key}")
            if after is not before or key not in fields:
                fields[key] = after
        return known
    if kind is bool:
        return "bool" if known in (NULL, "bool") else _clash(path, known, "bool")
    if kind is int:
        if value >= 2**64 or value < -(2**63):
            raise TooLarge(f"{path} is {value}, more than 64 bits hold")
        if value >= 2**63:
            if "." in path or "[]" in path or known == "negative":
                raise TooLarge(f"{path} is {value}, more than 63 bits hold")
            return "large" if known in (NULL, "int", "large") else _clash_unless_float(path, known)
        if known in (NULL, "int", "large", "negative"):
            if value < 0 and known == "large":
                raise TooLarge(f"{path} is {value}, beside numbers that need all 64 bits without a sign")
            return "negative" if value < 0 else "int" if known == NULL else known
        return _clash_unless_float(path, known)
    return "float" if known in (NULL, "int", "large", "negative") else _clash_unless_float(path, known)


def fits(found: Type, wanted: Type) -> bool:
    """Whether values of type `found` can be read into a column whose type `wanted` an earlier block has settled."""
    if found in (wanted, NULL):
        return True
    if wanted == NULL or isinstance(found, str) != isinstance(wanted, str):
        return False
    if isinstance(found, str):
        numbers = ("int", "negative", "large")
        return (
            wanted == "text"
            or (found in numbers and wanted in (*numbers, "float"))
            or (found, wanted) == ("bool", "int")
        )
    if found[0] != wanted[0]:
        return False
    if found[0] == "list":
        return fits(found[1], wanted[1])
    return all(key in wanted[1] and fits(kind, wanted[1][key]) for key, kind in found[1].items())


def from_arrow(kind: Any) -> Type:
    """A pyarrow type as a type of this module."""
    import pyarrow.types as arrow

    if arrow.is_null(kind):
        return NULL
    if arrow.is_boolean(kind):
        return "bool"
    if arrow.is_integer(kind):
        return "int"
    if arrow.is_floating(kind) or arrow.is_decimal(kind):
        return "float"
    if arrow.is_string(kind) or arrow.is_large_string(kind):
        return "text"
    if arrow.is_temporal(kind):
        return "time"
    if arrow.is_binary(kind) or arrow.is_large_binary(kind):
        return "bytes"
    if arrow.is_list(kind) or arrow.is_large_list(kind) or arrow.is_fixed_size_list(kind):
        return "list", from_arrow(kind.value_type)
    if arrow.is_struct(kind):
        return "object", {field.name: from_arrow(field.type) for field in kind}
    return str(kind)


def holds_times(kind: Type) -> bool:
    """Whether a time stands anywhere in the type."""
    if isinstance(kind, str):
        return kind == "time"
    return holds_times(kind[1]) if kind[0] == "list" else any(holds_times(inner) for inner in kind[1].values())


def _clash_unless_float(path: str, known: Type) -> Type:
    return "float" if known == "float" else _clash(path, known, "float")


def _clash(path: str, known: Type, new: Type) -> Any:
    raise Conflict(path, known, new)
