"""The words of XES 1.0 (IEEE 1849): a log of traces of events, with four standard extensions."""

import re

EXTENSIONS = (
    ("Concept", "concept", "concept.xesext"),
    ("Time", "time", "time.xesext"),
    ("Organizational", "org", "org.xesext"),
    ("Lifecycle", "lifecycle", "lifecycle.xesext"),
)
HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<log xes.version="1.0" xes.features="" xmlns="http://www.xes-standard.org/">\n'
    + "".join(
        f'  <extension name="{name}" prefix="{prefix}" uri="http://www.xes-standard.org/{file}"/>\n'
        for name, prefix, file in EXTENSIONS
    )
    + '  <global scope="trace">\n    <string key="concept:name" value="unknown"/>\n  </global>\n'
    '  <global scope="event">\n    <string key="concept:name" value="unknown"/>\n'
    '    <date key="time:timestamp" value="1970-01-01T00:00:00.000+00:00"/>\n'
    '    <string key="lifecycle:transition" value="complete"/>\n  </global>\n'
    '  <classifier name="Activity" keys="concept:name"/>\n'
    '  <classifier name="Activity and lifecycle" keys="concept:name lifecycle:transition"/>\n'
    '  <string key="concept:name" value="Moodle event log"/>\n'
    '  <string key="lifecycle:model" value="standard"/>\n'
)
TAIL = "</log>\n"
TRACE_END = "  </trace>\n"

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile('[^&<>"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]*')
_ENTITIES = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        '"': "&quot;",
        "\t": "&#9;",
        "\n": "&#10;",
        "\r": "&#13;",
    }
)


def attribute(text: str) -> str:
    """Return ``text`` as the value of an XML attribute; what XML cannot hold is left out."""
    if _PLAIN.fullmatch(text):
        return text
    return _FORBIDDEN.sub("", text).translate(_ENTITIES)


def trace_start(name: str) -> str:
    """Return the beginning of a case."""
    return f'  <trace>\n    <string key="concept:name" value="{attribute(name)}"/>\n'


def event(activity: str, timestamp: str, attributes: tuple[tuple[str, str], ...]) -> str:
    """Return one event. ``timestamp`` as 2026-03-05T09:15:00Z; attributes without text are left out."""
    more = "".join(
        f'      <string key="{key}" value="{attribute(text)}"/>\n'
        for key, text in attributes
        if text
    )
    moment = timestamp.removesuffix("Z")
    return (
        f'    <event>\n      <string key="concept:name" value="{attribute(activity)}"/>\n'
        f'      <date key="time:timestamp" value="{moment}.000+00:00"/>\n'
        f'      <string key="lifecycle:transition" value="complete"/>\n{more}    </event>\n'
    )
