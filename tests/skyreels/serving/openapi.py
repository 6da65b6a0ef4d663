"""Requests drawn from an OpenAPI document: by what it says of each operation, and, as often, beside it."""

from hypothesis import strategies as st

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["../x", "%00", "data:", "http://[", "@", "\0", "1e999", "[", "{}", "é", "video_" + "0" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


def values(schema, document):
    """What the schema describes; one in four is anything."""
    described = st.deferred(lambda: _described(schema, document))  # once, and not before it is drawn
    return st.integers(0, 3).flatmap(lambda roll: ANY if roll == 0 else described)


def requests(document):
    """Of every operation alike: (method, path, query, headers, body) as `_request` draws them."""
    return st.one_of(
        _request(document, method, path, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in sorted(methods.items())
    )


def _request(document, method, path, operation):
    """(method, path, query, headers, body) of one operation; a body is JSON, form fields, or none."""
    places = {"path": {}, "query": {}, "header": {}}
    for parameter in operation.get("parameters", []):
        drawn = values(parameter["schema"], document).map(_text)
        places[parameter["in"]][parameter["name"]] = drawn
    bodies = [
        values(content["schema"], document).map(lambda value, kind=kind: (kind, value))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    filled = st.fixed_dictionaries(places["path"]).map(lambda names: path.format(**names))
    return st.tuples(
        st.just(method.upper()),
        filled,
        st.fixed_dictionaries({}, optional=places["query"]),
        st.fixed_dictionaries({}, optional=places["header"]),
        st.one_of(st.none(), *bodies),
    )


def _described(schema, document):
    if "$ref" in schema:
        found = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found.get(part, {})
        return _described(found, document)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return st.one_of([_described(choice, document) for choice in schema[several]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    kind = _KINDS.get(schema.get("type"))
    return ANY if kind is None else kind(schema, document)


def _object(schema, document):
    fields = {name: values(inner, document) for name, inner in schema.get("properties", {}).items()}
    needed = {name: fields.pop(name) for name in schema.get("required", []) if name in fields}
    if isinstance(schema.get("additionalProperties"), dict):
        return st.dictionaries(st.text(max_size=8), _described(schema["additionalProperties"], document), max_size=3)
    some = st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True) if fields else st.just([])
    return some.flatmap(lambda names: st.fixed_dictionaries({**needed, **{name: fields[name] for name in names}}))


def _array(schema, document):
    items = schema.get("items", {})
    return st.lists(_described(items, document), max_size=3)


def _string(schema, _):
    if "pattern" in schema:
        return st.from_regex(schema["pattern"])
    return st.text(min_size=schema.get("minLength", 0), max_size=min(30, schema.get("maxLength", 30)))


def _number(schema, _):
    low, high = schema.get("minimum", schema.get("exclusiveMinimum", -9)), schema.get("maximum", 9999)
    return st.floats(low, max(low, high)) if schema["type"] == "number" else st.integers(low, max(low, high))


_KINDS = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _number,
    "boolean": lambda *_: st.booleans(),
    "null": lambda *_: st.none(),
}


def _text(value):
    """As it stands in a URL or a header."""
    return str(value).encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\r", " ") or "-"
