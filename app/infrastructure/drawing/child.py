"""Draws a scene, or looks at a picture, in a process of its own; run as a script, never imported.

    child.py SCENE_JSON INPUT... OUTPUT...
    child.py '{"do": "look", "max_pixels": N}' PICTURE

The working directory is the job's folder. What it tells the service is in
``app.infrastructure.telling``; its exit code says whether the output is whole.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

# It is started without the service's own search path, and the package may not be installed whole.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from app.domain.errors import AppError
from app.infrastructure.drawing.drawing import draw, sources
from app.infrastructure.drawing.pictures import look
from app.infrastructure.drawing.scene_reading import scene_from_json
from app.infrastructure.telling import Teller, tell_facts, tell_refusal
from app.operations.templates.scene import picture_file

PART = ".part"


def draw_scene(wish: dict[str, Any], names: list[str]) -> None:
    scene = scene_from_json(wish)
    split = len(names) - len(scene.element_names)
    inputs, outputs = names[:split], names[split:]
    if not set(sources(scene)) <= set(inputs):
        msg = "a scene shows its inputs only"
        raise ValueError(msg)
    written = {name.removesuffix(PART): Path(name) for name in outputs}
    targets = {name: written[picture_file(name)] for name in scene.element_names}
    drawn = draw(scene, Path(), targets, Teller().reach)
    tell_facts({"fitted": drawn.fitted}, numbers=drawn.numbers)


def main(arguments: list[str]) -> int:
    wish = json.loads(arguments[0])
    try:
        if wish.get("do") == "look":
            tell_facts(asdict(look(Path(arguments[1]), int(wish["max_pixels"]))))
        else:
            draw_scene(wish, arguments[1:])
    except AppError as refusal:
        tell_refusal(refusal.code, refusal.detail, refusal.extra)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
