"""The settings as JSON Schema (2020-12), for editors: generated from the models, and as wide as the loader is.

python -m ds_gateway.config.json_schema > config/gateway.schema.json

What the loader accepts the schema accepts. It refuses less: what depends on several keys, on the machine or on
the inside of a text (topics, patterns, URLs' hosts) only ``ds-gateway check`` knows. Where it differs from what
pydantic says of the models:

    sizes, durations    a number, or text with a unit
    texts               ``${...}`` stands for any of them, also where there are only some words
    empty keys          count as not given, so that every key may be null that is not required
    short forms         a word or a pair for a mapping: the models' own validators are asked what they take
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from ds_gateway.config import decoding, names, quantities, scalars
from ds_gateway.config.commands import RESPONSE_TOPIC
from ds_gateway.config.includes import INCLUDE
from ds_gateway.config.models import Settings
from ds_gateway.config.mqtt import MqttSettings
from ds_gateway.config.serial_port import SerialSettings
from ds_gateway.config.server import EMBEDDED, ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

FILE: Final = "config/gateway.schema.json"
"""Where the generated schema is in the source; the examples name it."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_REFERENCE_PATTERN: Final = r"\$\{"
_REFERENCE: Final = {"type": "string", "pattern": _REFERENCE_PATTERN}

_SIZE: Final = r"^\s*[0-9]{1,20}(\.[0-9]{1,20})?\s*([kKMGT]i?)?[bB]?\s*$"
_DURATION: Final = r"^\s*[0-9]{1,20}(\.[0-9]{1,20})?\s*(ms|s|min|m|h|d)?\s*$"

_WRITTEN: Final[Mapping[Any, JsonSchemaValue]] = {
    quantities._size: {"type": ["integer", "string"], "pattern": f"{_SIZE}|{_REFERENCE_PATTERN}"},  # noqa: SLF001
    quantities._duration: {"type": ["number", "string"], "pattern": f"{_DURATION}|{_REFERENCE_PATTERN}"},  # noqa: SLF001
    quantities._whole_duration: {  # noqa: SLF001
        "type": ["integer", "string"],
        "pattern": f"{_DURATION}|{_REFERENCE_PATTERN}",
    },
    quantities._number: {"type": "number"},  # noqa: SLF001
    decoding._column: {"type": ["string", "integer"], "minLength": 1},  # noqa: SLF001
    names._name: {"type": "string", "pattern": f"^(?:{names._NAME.pattern})$"},  # noqa: SLF001
}
"""How values are written that a function reads."""

NARROWER: Final[Mapping[tuple[type[BaseModel], str], JsonSchemaValue]] = {
    (ServerSettings, "url"): {"pattern": f"^https?://[^?#@\\s]+$|^{EMBEDDED}$|{_REFERENCE_PATTERN}"},
    (ServerSettings, "proxy"): {"pattern": f"^https?://[^/?#\\s]+/?$|{_REFERENCE_PATTERN}"},
    (MqttSettings, "url"): {"pattern": f"^mqtts?://[^/?#@\\s]+/*$|{_REFERENCE_PATTERN}"},
    (SerialSettings, "stopbits"): {"enum": [1, 1.5, 2]},
}
"""What validators of single fields refuse, said here once more: a key of theirs is told while it is typed."""

_FILLED_IN: Final = frozenset({"gateway", "data_dir", "id"})
"""Required by the models, and filled in by the loader where the file has none."""

_PROBE: Final = "any text"
_PROBE_PAIR: Final = (0, 1)
_SHORT_WORDS: Final = (RESPONSE_TOPIC,)
"""Words for a mapping that are no keys of it."""
_BOUNDS: Final = {"ge": "minimum", "le": "maximum"}
_BESIDE: Final = ("description", "default")


def document(*, fragment: bool = False) -> dict[str, Any]:
    """The schema of a configuration file; of an included one (``fragment``), which need not have it all."""
    root = Settings.model_json_schema(schema_generator=_Generator)
    root["properties"] = {**_include(), **root["properties"]}
    root.pop("required", None)
    root["type"] = "object"
    if not fragment:
        root["anyOf"] = [{"required": ["server"]}, {"required": [INCLUDE]}]
    head = {
        "$schema": DIALECT,
        "title": "ds-gateway: " + ("an included file" if fragment else "configuration"),
        "description": "ds-gateway check tells what this schema cannot.",
    }
    root.pop("title", None)
    root.pop("description", None)
    return {**head, **root}


def text(*, fragment: bool = False) -> str:
    """The schema as a file."""
    return orjson.dumps(document(fragment=fragment), option=orjson.OPT_INDENT_2).decode() + "\n"


def _include() -> dict[str, Any]:
    return {
        INCLUDE: {
            "type": ["array", "null"],
            "items": {"type": "string", "minLength": 1},
            "description": "More files, as paths or patterns (devices/*.yaml) relative to this one.",
        }
    }


class _Generator(GenerateJsonSchema):
    """pydantic's generator, taught what the loader and the validators do."""

    schema_dialect = DIALECT

    # -- what a function reads

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        read = schema["function"]["function"]
        inner = self.generate_inner(schema["schema"])
        if read in _WRITTEN:
            return {**{key: inner[key] for key in _BOUNDS.values() if key in inner}, **_WRITTEN[read]}
        return self._with_short_forms(inner, read, _model_in(schema["schema"], read))

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
        read = schema["function"]["function"]
        return dict(_WRITTEN[read]) if read in _WRITTEN else {}

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
        read = schema["function"]["function"]
        return dict(_WRITTEN[read]) if read in _WRITTEN else self.generate_inner(schema["schema"])

    def _with_short_forms(
        self, inner: JsonSchemaValue, read: Callable[..., Any], model: type[BaseModel] | None
    ) -> JsonSchemaValue:
        """What a validator takes that comes before the type's own: it is asked."""
        words = inner.get("enum") or ([inner["const"]] if "const" in inner else [])
        if words:
            numbers = [
                number
                for word in words
                if isinstance(word, str)
                and not isinstance(number := scalars.resolve(word), str)
                and _reads(read, number) == word
            ]
            return {**{key: value for key, value in inner.items() if key != "type"}, "enum": [*words, *numbers]}
        target = self._resolved(inner)
        if "properties" not in target:
            return inner
        if _is_short(read, _PROBE, None):
            return {"anyOf": [{"type": "string"}, inner]}
        if _is_short(read, [*_PROBE_PAIR], model):
            pair = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
            return {"anyOf": [pair, inner]}
        words = [word for word in (*target["properties"], *_SHORT_WORDS) if _is_short(read, word, model)]
        return {"anyOf": [{"enum": words}, dict(_REFERENCE), inner]} if words else inner

    def _resolved(self, found: JsonSchemaValue) -> JsonSchemaValue:
        reference = found.get("$ref")
        if reference is None:
            return found
        definition = self.get_schema_from_definitions(reference)
        return {} if definition is None else definition

    # -- texts and their references

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        return {"enum": list(schema["expected"])}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if found.get("default", ...) is None:
            found.pop("default")
        return found

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found: JsonSchemaValue = {"type": "object"}
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        if "pattern" in keys:
            found["propertyNames"] = {"pattern": keys["pattern"]}
        if "values_schema" in schema:
            found["additionalProperties"] = _written(self.generate_inner(schema["values_schema"]))
        return found

    def list_schema(self, schema: core_schema.ListSchema) -> JsonSchemaValue:
        found = super().list_schema(schema)
        found["items"] = _written(found.get("items", {}))
        return found

    # -- models

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        model = schema["cls"]
        found.pop("title", None)
        closed = found.pop("additionalProperties")
        # With a short form it is one of several: what is said of the mapping is not said of the word.
        mapping = next((each for each in found.get("anyOf", ()) if "properties" in each), found)
        mapping["additionalProperties"] = closed
        mapping["type"] = ["object", "null"]  # where it may not be empty, `_written` says so
        found["description"] = " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
        required = [key for key in mapping.pop("required", []) if key not in _FILLED_IN]
        if required:
            mapping["required"] = required
        for key, field in mapping.get("properties", {}).items():
            field.pop("title", None)
            field.update(NARROWER.get((model, key), {}))
            mapping["properties"][key] = _written(field, may_be_empty=key not in required)
        return found

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # `_written` says where nothing may stand


def _written(found: JsonSchemaValue, *, may_be_empty: bool = False) -> JsonSchemaValue:
    """How a value of this type stands in a file: perhaps as a reference, perhaps left empty."""
    for given, name in _BOUNDS.items():
        # Bounds behind a function that reads text, under pydantic's name: they are of numbers only.
        bounds = [found.pop(key) for key in (given, name) if key in found]
        if bounds:
            found[name] = max(bounds) if given == "ge" else min(bounds)
    found.pop("format", None)
    found.pop("writeOnly", None)
    beside: JsonSchemaValue = {key: found.pop(key) for key in _BESIDE if key in found}
    if "$ref" in found:
        return {**found, **({} if may_be_empty else {"type": ["object", "string"]}), **beside}
    kinds = found.get("type")
    choices: list[JsonSchemaValue] = []
    is_text = kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    words = found.get("enum", ())
    if any(isinstance(word, str) for word in words) or (
        is_text and ("maxLength" in found or ("pattern" in found and _REFERENCE_PATTERN not in found["pattern"]))
    ):
        choices.append(dict(_REFERENCE))
    if may_be_empty:
        if not choices and isinstance(kinds, str | list) and "enum" not in found:
            found["type"] = [kinds, "null"] if isinstance(kinds, str) else [*kinds, "null"]
        else:
            choices.append({"type": "null"})
    if not choices:
        return {**found, **beside}
    first = found.pop("anyOf", None)
    return {"anyOf": [*(first or [found]), *choices], **beside}


def _reads(read: Callable[..., Any], value: Any) -> Any:
    """What a validator makes of a value; None where it refuses it."""
    try:
        made = read(value)
    except (ValueError, TypeError, AttributeError):
        return None
    return None if made is value else made


def _is_short(read: Callable[..., Any], value: object, model: type[BaseModel] | None) -> bool:
    """Whether the validator makes a mapping of the value, and the model takes it."""
    made = _reads(read, value)
    if not isinstance(made, dict):
        return False
    try:
        return model is None or model.model_validate(made) is not None
    except ValidationError:
        return False


def _model_in(schema: Any, read: Callable[..., Any]) -> type[BaseModel] | None:
    """The model behind any number of validators; None if there is none, or it cannot be told."""
    if schema.get("type") == "model-fields":  # the validator is the model's own
        own = getattr(read, "__self__", None)
        return own if isinstance(own, type) and issubclass(own, BaseModel) else None
    while isinstance(schema, dict):
        if schema.get("type") == "model":
            found: type[BaseModel] = schema["cls"]
            return found
        schema = schema.get("schema")
    return None


if __name__ == "__main__":
    sys.stdout.write(text())
