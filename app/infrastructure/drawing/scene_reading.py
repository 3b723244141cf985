"""Turns the JSON of a scene back into the scene that a template made."""

from collections.abc import Mapping
from typing import Any

from app.operations.templates.scene import (
    Anchor,
    Column,
    Element,
    Fit,
    Glow,
    Node,
    Picture,
    Plate,
    Region,
    Ripples,
    Row,
    Scene,
    Shadow,
    Shape,
    Text,
)

_FLAT: Mapping[str, type[Text | Shape | Glow | Ripples | Picture]] = {
    "text": Text,
    "shape": Shape,
    "glow": Glow,
    "ripples": Ripples,
    "picture": Picture,
}
_ENUMS: Mapping[str, type[Anchor | Fit]] = {
    "anchor": Anchor,
    "align": Anchor,
    "across": Anchor,
    "down": Anchor,
    "fit": Fit,
}


def scene_from_json(data: Mapping[str, Any]) -> Scene:
    """Return the scene that ``Scene.as_json`` stored. Raises KeyError, TypeError, ValueError."""
    regions = tuple(_region(region) for region in data["regions"])
    return Scene(**{**data, "regions": regions})


def _region(data: Mapping[str, Any]) -> Region:
    elements = tuple(Element(**{**each, "node": _node(each["node"])}) for each in data["elements"])
    return Region(**{**_plain(data), "elements": elements})


def _node(data: Mapping[str, Any]) -> Node:
    kind, fields = data["kind"], _plain(data)
    if kind not in {"plate", "row", "column"}:
        return _FLAT[kind](**fields)
    if kind == "plate":
        return Plate(**{**fields, "child": _node(data["child"])})
    children = tuple(_node(child) for child in data["children"])
    fields["children"] = children
    return Row(**fields) if kind == "row" else Column(**fields)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with names of anchors and shadows as what they stand for."""
    fields = dict(data)
    for key, kind in _ENUMS.items():
        if key in fields:
            fields[key] = kind(fields[key])
    if "radii" in fields:
        fields["radii"] = tuple(fields["radii"])
    if fields.get("shadow") is not None:
        fields["shadow"] = Shadow(**fields["shadow"])
    return fields
