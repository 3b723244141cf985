"""The rule of every FFmpeg that the service starts, as a pure check of its arguments.

media.md "Every input, every time": there are three kinds of input (a foreign clip behind all its
locks, what is ours by construction, never a foreign still), one kind of output, and no other option
than those named here. What is not known is a fault: an operation with a new option or filter adds it
to these tables, where somebody looks at it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FLAGS = frozenset(
    {
        *("-nostdin", "-xerror", "-copyts", "-nostats", "-y", "-hide_banner", "-shortest"),
        *("-sn", "-dn", "-an", "-vn", "-noaccurate_seek", "-noautorotate", "-start_at_zero"),
    }
)
"""Options that take no value."""

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.:+-]{0,79}"
_NUMBER = r"-?\d+(\.\d+)?"
_RATE = r"\d+([./]\d+)?"
VALUES = {
    **dict.fromkeys(("-v", "-loglevel"), "error|warning|fatal"),
    "-progress": "pipe:1",
    **dict.fromkeys(("-stats_period", "-t", "-to", "-ss", "-itsoffset", "-sseof"), _NUMBER),
    **dict.fromkeys(("-filter_threads", "-filter_complex_threads", "-threads"), r"\d+"),
    # Locks of an input
    "-protocol_whitelist": "file",
    **dict.fromkeys(("-format_whitelist", "-codec_whitelist"), r"[a-z0-9_-]+(,[a-z0-9_-]+)*"),
    **dict.fromkeys(("-max_pixels", "-max_streams", "-probesize", "-analyzeduration"), r"\d+"),
    "-export_side_data": r"\+enhancements",
    "-seek_timestamp": "1",
    "-safe": "1",
    "-f": "[a-z0-9_]+",
    "-framerate": _RATE,
    **dict.fromkeys(("-loop", "-stream_loop", "-thread_queue_size"), r"-?\d+"),
    **dict.fromkeys(("-skip_frame", "-skip_loop_filter"), "noref|nokey|bidir|all|default"),
    **dict.fromkeys(("-display_rotation",), _NUMBER),
    # The output
    "-map": r"\d+(:[vVas](:\d+)?)?\??|\[[a-z0-9_]+\]",
    **dict.fromkeys(("-map_metadata", "-map_chapters"), "-1"),
    **dict.fromkeys(("-fflags", "-flags", "-movflags"), r"\+?[a-z_+]+"),
    **dict.fromkeys(("-c", "-c:v", "-c:a", "-codec", "-c:v:0", "-c:a:0"), "copy|libx264|aac"),
    **dict.fromkeys(("-preset", "-tune", "-profile:v", "-profile:a", "-level"), _WORD),
    **dict.fromkeys(("-crf", "-g", "-keyint_min", "-bf", "-refs", "-sc_threshold"), r"-?\d+"),
    **dict.fromkeys(("-pix_fmt", "-fps_mode", "-field_order"), "[a-z0-9]+"),
    **dict.fromkeys(("-r", "-enc_time_base:v", "-time_base", "-video_track_timescale"), _RATE),
    **dict.fromkeys(("-b:a", "-b:v", "-maxrate", "-bufsize"), r"\d+[kM]?"),
    **dict.fromkeys(("-ar", "-ac", "-aspect", "-frames:v", "-fs", "-movie_timescale"), r"\d+"),
    "-force_key_frames": r"\d+(\.\d+)?(,\d+(\.\d+)?)*",
    "-aac_coder": "fast|twoloop",
    "-x264-params": r"[a-z0-9_=:.-]+",
    **dict.fromkeys(("-color_primaries", "-color_trc", "-colorspace", "-color_range"), _WORD),
    **dict.fromkeys(("-bsf:v", "-bsf:a"), r"[a-z0-9_=:,-]+"),
    **dict.fromkeys(("-avoid_negative_ts", "-use_editlist", "-tag:v"), r"[a-z0-9_-]+"),
    **dict.fromkeys(("-muxdelay", "-muxpreload", "-max_interleave_delta"), _NUMBER),
}
"""Options with a value -> what the whole value must be."""
GRAPHS = frozenset({"-vf", "-af", "-filter:v", "-filter:a", "-filter:v:0", "-filter_complex"})

LOCKS = (
    *("-protocol_whitelist", "-codec_whitelist", "-max_pixels", "-max_streams"),
    *("-probesize", "-analyzeduration"),
)
"""What stands before the ``-i`` of each foreign clip, beside the whitelist or name of its format."""
MEDIA_FORMATS = frozenset({"mov", "matroska", "webm", "mpegts", "avi", "ogg", "flv"})
"""Formats that hold media themselves: none of them is a list of other files."""
MOST = {
    "-max_pixels": 5000 * 5000 * 2,
    "-max_streams": 1000,
    "-probesize": 50_000_000,
    "-analyzeduration": 60_000_000,
}
"""A lock with a larger number is none."""
OWN_CODECS = "h264,aac"
"""Of what an earlier step of the same job has encoded."""
LIST_FORMATS = "concat,mov"
"""Of our own lists: they hold nothing but MP4 that we made."""

FILTERS = frozenset(
    {
        *("null", "anull", "copy", "split", "asplit", "format", "aformat", "scale", "crop", "pad"),
        *("trim", "atrim", "setpts", "asetpts", "fps", "setsar", "setdar", "settb", "asettb"),
        *("transpose", "hflip", "vflip", "rotate", "overlay", "fade", "afade", "loop", "aloop"),
        *("tpad", "apad", "aresample", "volume", "loudnorm", "alimiter", "amix", "amerge", "pan"),
        *("concat", "xfade", "acrossfade", "zoompan", "boxblur", "gblur", "avgblur", "eq", "hue"),
        *("color", "gradients", "nullsrc", "anullsrc", "sine", "geq", "noise", "vignette"),
        *("colorchannelmixer", "alphamerge", "alphaextract", "premultiply", "blend", "fillborders"),
        *(
            "setparams",
            "colorspace",
            "select",
            "aselect",
            "drawbox",
            "unsharp",
            "lutyuv",
            "lutrgb",
            "perspective",
        ),
        *("channelmap", "adelay"),
        *("colorlevels", "curves", "deband", "shuffleplanes", "extractplanes", "tonemap", "zscale"),
        *("channelsplit", "join", "asetnsamples", "perlin"),
    }
)
"""Filters that open no file and draw no text."""
SOURCES = frozenset({"color", "gradients", "nullsrc", "anullsrc", "sine", "perlin"})

ID = re.compile(r"[0-9a-f]{32}\Z")
OUR_NAME = re.compile(
    r"[a-z]{1,24}([_-]?[a-z0-9]{1,24}){0,4}(\.(mp4|mov|png|ffconcat|m4a))?(\.part)?\Z"
)
"""Names that plans give to their own files: short plain words and numbers."""
_GRAPH = re.compile(r"[A-Za-z0-9_ \[\];:,.=|'()+*/<>?@#\\-]*\Z")
_OPENS = re.compile(
    r"[a-z_]*(file|url|text|path|dir)[a-z_]*=|file:|://|movie|(^|[=:'])/|\.\.", re.IGNORECASE
)
_SOURCE = re.compile(
    r"[a-z0-9_]+(=[A-Za-z0-9_.:=/#x@|-]*)?(,[a-z0-9_]+(=[A-Za-z0-9_.:=/#x@|-]*)?)*\Z"
)
_LABEL = re.compile(r"\[[A-Za-z0-9_:]+\]")
_QUOTED = re.compile(r"'[^']*'|\\.")


@dataclass(frozen=True, slots=True)
class Section:
    """The options before one file, and the file: an input's address or the output's."""

    options: tuple[tuple[str, str | None], ...]
    address: str

    def value(self, option: str) -> str | None:
        return dict(self.options).get(option)

    def names(self) -> set[str]:
        return {name for name, _ in self.options}


def faults(arguments: Sequence[str]) -> list[str]:
    """Return what is wrong with one run's arguments (without the binary), nothing when all is right."""
    found: list[str] = []
    inputs, output = _sections(arguments, found)
    if not inputs:
        found.append("there is no input")
    everything = [option for each in (*inputs, output) for option in each.options]
    if ("-nostdin", None) not in everything:
        found.append("-nostdin is not there")
    for name, value in everything:
        found += _option_faults(name, value)
    for each in inputs:
        found += [f"{each.address}: {fault}" for fault in _input_faults(each)]
    found += _output_faults(output)
    return found


def kinds(arguments: Sequence[str]) -> list[str]:
    """Return the kind of each input in order: foreign, own, list, picture or source."""
    return [_kind(each) for each in _sections(arguments, [])[0]]


def _sections(arguments: Sequence[str], found: list[str]) -> tuple[list[Section], Section]:
    """Split into inputs and the output; what cannot be read goes to ``found``."""
    inputs: list[Section] = []
    options: list[tuple[str, str | None]] = []
    addresses: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-i":
            inputs.append(Section(tuple(options), next(rest, "")))
            options = []
        elif not argument.startswith("-"):
            addresses.append(argument)
        elif argument in FLAGS:
            options.append((argument, None))
        else:
            options.append((argument, next(rest, "")))
    if len(addresses) != 1 or (arguments and arguments[-1] != addresses[0]):
        found.append(f"there is not one output at the end: {addresses}")
    return inputs, Section(tuple(options), addresses[-1] if addresses else "")


def _option_faults(name: str, value: str | None) -> Iterator[str]:
    if value is None:
        return
    if name in GRAPHS:
        yield from (f"{name}: {fault}" for fault in graph_faults(value))
    elif name not in VALUES:
        yield f"{name} is not known here"
    elif not re.fullmatch(VALUES[name], value):
        yield f"{name} may not be {value!r}"


def graph_faults(graph: str) -> Iterator[str]:
    """What a filter graph must not be: anything but numbers and names between known filters."""
    if not _GRAPH.match(graph):
        yield f"characters that no number or name has: {graph!r}"
    bare = _QUOTED.sub("Q", graph)
    if opens := _OPENS.search(_LABEL.sub("", graph)):
        yield f"{opens[0]!r} opens files or draws text"
    for each in re.split("[;,]", _LABEL.sub("", bare)):
        name = each.strip().partition("=")[0].partition("@")[0]
        if name and name not in FILTERS:
            yield f"the filter {name!r} is not known here"


def _kind(each: Section) -> str:
    if each.value("-codec_whitelist") == OWN_CODECS and each.value("-format_whitelist") == "mov":
        return "own"
    own = {"lavfi": "source", "concat": "list", "png_pipe": "picture"}
    return own.get(each.value("-f") or "", "foreign")


def _input_faults(each: Section) -> list[str]:
    check = {
        "source": _source_faults,
        "list": _list_faults,
        "picture": _picture_faults,
        "own": _own_faults,
        "foreign": _foreign_faults,
    }[_kind(each)]
    once = [name for name, _ in each.options if name in {*LOCKS, "-format_whitelist", "-f"}]
    doubled = [f"{name} stands there twice" for name in set(once) if once.count(name) > 1]
    return doubled + list(check(each))


def _foreign_faults(each: Section) -> Iterator[str]:
    for lock in LOCKS:
        if lock not in each.names():
            yield f"{lock} is not there"
    formats = set((each.value("-format_whitelist") or "").split(",")) - {""}
    fixed = each.value("-f")
    if not formats and fixed is None:
        yield "neither -format_whitelist nor -f is there"
    if not formats <= MEDIA_FORMATS:
        yield f"-format_whitelist lets {sorted(formats - MEDIA_FORMATS)} in"
    if fixed is not None and fixed not in MEDIA_FORMATS:
        yield f"-f {fixed} is not a format of media"
    for lock, most in MOST.items():
        number = each.value(lock) or "0"
        if number.isdigit() and int(number) > most:
            yield f"{lock} is {number}, which bounds nothing"
    if not ID.match(_file_name(each.address)):
        yield "its name is not an id"


def _own_faults(each: Section) -> Iterator[str]:
    for lock in ("-protocol_whitelist", "-max_pixels", "-max_streams"):
        if lock not in each.names():
            yield f"{lock} is not there"
    if each.value("-f") != "mov":
        yield "it is no MP4"
    name = _file_name(each.address)
    if ID.match(name) or not OUR_NAME.match(name):
        yield "its name is not one of ours"


def _list_faults(each: Section) -> Iterator[str]:
    if each.value("-protocol_whitelist") != "file":
        yield "-protocol_whitelist is not there"
    if each.value("-format_whitelist") != LIST_FORMATS:
        yield "-format_whitelist is not concat,mov"
    if each.value("-safe") not in {None, "1"}:
        yield "-safe is off"
    if not OUR_NAME.match(_file_name(each.address)):
        yield "its name is not one of ours"


def _picture_faults(each: Section) -> Iterator[str]:
    if each.value("-protocol_whitelist") != "file":
        yield "-protocol_whitelist is not there"
    name = _file_name(each.address)
    if not (OUR_NAME.match(name) and name.endswith(".png")):
        yield "it is not a PNG with a name of ours"


def _source_faults(each: Section) -> Iterator[str]:
    if not _SOURCE.match(each.address):
        yield "a source that is not made of numbers"
    names = [part.partition("=")[0] for part in each.address.split(",")]
    if names[0] not in SOURCES or not set(names) <= FILTERS:
        yield "a source that is not known here"
    if _OPENS.search(each.address):
        yield "a source that opens files"


def _output_faults(output: Section) -> Iterator[str]:
    for name, value in (
        *(("-map_metadata", "-1"), ("-map_chapters", "-1")),
        *(("-sn", None), ("-dn", None), ("-f", "mp4")),
    ):
        if (name, value) not in output.options:
            yield f"the output lacks {name}"
    if "-map" not in output.names():
        yield "the output takes whatever streams there are"
    name = _file_name(output.address)
    is_ours = OUR_NAME.match(name) and name.endswith(".part")
    if not is_ours and output.address != "pipe:1":
        yield f"the output's name is not one of ours: {output.address}"


def _file_name(address: str) -> str:
    """The name behind ``file:``; "" for an address without it, which no rule accepts."""
    prefix, _, name = address.partition("file:")
    return "" if prefix else name
