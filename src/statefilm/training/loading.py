"""Recipes from YAML: found by name, changed from the command line, checked; errors of one line."""

from __future__ import annotations

import copy
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from statefilm.errors import UsageError, suggest
from statefilm.training.recipe import KINDS, Recipe

__all__ = ["apply_changes", "dump_recipe", "load_recipe", "read_section", "shipped_recipes"]

Read = TypeVar("Read", bound=BaseModel)

SHIPPED = Path(__file__).parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name; the stages of one model share a folder."""
    paths = sorted(SHIPPED.rglob("*.yaml"))
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in paths}


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe.

    Args:
        path_or_name: a YAML file, or the name of a recipe inside the package such as "world_t2i"
            or "hth_5b/1_256p_t2i".
        overrides: changes such as "optimizer.lr=0.01", "data.0.batch_size=8" or, of every entry,
            "data.*.batch_size=8"; the value is YAML.

    Raises:
        FileNotFoundError: no such file.
        UsageError: no such recipe, not YAML, an unknown key or a bad value; one line that names
            the key or the value and what is valid.
    """
    path = _find(path_or_name)
    try:
        fields = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values, found {fields!r:.40}")
    apply_changes(fields, overrides)
    kind = fields.get("kind", "denoiser")
    if not isinstance(kind, str) or kind not in KINDS:
        raise suggest(str(kind), KINDS, "kind of recipe")
    return read_section(KINDS[kind], fields, str(path))


def apply_changes(fields: dict[str, Any], changes: Sequence[str]) -> None:
    """Apply changes such as "optimizer.lr=0.01" to nested fields; the values are YAML.

    Raises:
        UsageError: a change has another form, or names no part of the fields.
    """
    for change in changes:
        _override(fields, change)


def read_section(section: type[Read], fields: dict[str, Any], where: str) -> Read:
    """A recipe, or a section of one, from its fields.

    Raises:
        UsageError: an unknown key or a bad value; one line that begins with `where`.
    """
    try:
        return section.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"{where}: {_describe(error, section)}") from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    stages = {Path(name).parent.name for name in shipped}
    if path.suffix or (len(path.parts) > 1 and path.parts[0] not in stages):
        raise FileNotFoundError(f"no such recipe file: {path}")
    raise suggest(str(path_or_name), shipped, "recipe")


def _override(fields: dict[str, Any], change: str) -> None:
    """Apply one "a.b=value" to the nested fields."""
    key, equals, text = change.partition("=")
    if not key or not equals:
        raise UsageError(f"change {change!r} is not of the form key=value, e.g. optimizer.lr=0.01")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"change {change!r}: the value is not YAML") from None
    _set(fields, key.split("."), value, change)


def _set(node: Any, parts: list[str], value: Any, change: str) -> None:
    """Put a value at the place inside `node`; the part `*` is each part of a list."""
    part, *rest = parts
    if part == "*" and isinstance(node, list) and node:
        for number in range(len(node)):
            _set(node, [str(number), *rest], value, change)
        return
    index = _index(node, part, change)
    if not rest:
        node[index] = copy.deepcopy(value)
        return
    if isinstance(node, dict) and not isinstance(node.get(part), dict | list):
        node[part] = {}  # a section at its defaults
    _set(node[index], rest, value, change)


def _index(node: Any, part: str, change: str) -> str | int:
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise UsageError(f"change {change!r}: {node!r:.40} has no part {part!r}")
    if not (part.isdigit() and int(part) < len(node)):
        raise UsageError(f"change {change!r}: {part!r} must be * or a number below {len(node)}")
    return int(part)


def _describe(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first of a validation's errors on one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    value = first["input"]
    if first["type"] == "extra_forbidden":
        parents = first["loc"][:-1]
        valid = [".".join(map(str, (*parents, name))) for name in _fields_at(kind, parents)]
        return str(suggest(key, valid, "key"))
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    shown = "" if isinstance(value, dict) else f" = {value!r:.60}"
    return f"{key}{shown}: {message}" if key else message


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the keys that are valid at a place of the schema."""
    here: Any = model
    for part in location:
        if isinstance(part, str):
            here = here.model_fields[part].annotation
        here = _section(here)
    return list(here.model_fields)


def _section(annotation: Any) -> Any:
    """The section inside Section | None or tuple[Section, ...]."""
    while get_origin(annotation) in (Union, types.UnionType, tuple):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return annotation
