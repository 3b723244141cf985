"""Foretells the H.264 headers that the encoder writes in the house profile, without running it.

A clip may be copied between clips that are still to be encoded only if its headers are those that the
encoder will write. Where another encoder writes others, none is ever alike: clips are encoded anew, and
nothing else is lost.
"""

import hashlib

PROFILE_HIGH = 100
LEVEL_IDC = 40
MACROBLOCK = 16
PICTURE_PARAMETERS = bytes.fromhex("68efbcb0")
"""Of the preset: CABAC, 8x8 transform, weighted prediction, starting at a middling quantiser."""
ORDER_BITS, REFERENCES, REORDERED, BUFFERED, VECTOR_BITS = 2, 4, 2, 4, 11
"""What the preset stores of how pictures refer to each other, and the level of how far they do."""
UNSPECIFIED_FORMAT, BT709 = 5, 1
ESCAPE = 3

SOUND_HEADERS = frozenset(
    hashlib.sha256(bytes.fromhex(each)).hexdigest()[:32] for each in ("1190", "119056e500")
)
"""AAC-LC, 48 kHz, stereo; one of the two says besides that there is no extension."""


def headers_for(width: int, height: int, rate: int) -> str:
    """Return what ``VideoInfo.headers`` of a picture encoded in the house profile will be."""
    parameters = _escaped(_sequence_parameters(width, height, rate))
    record = (
        *(1, *parameters[1:4], 0xFF, 0xE1),
        *(*len(parameters).to_bytes(2, "big"), *parameters),
        *(1, *len(PICTURE_PARAMETERS).to_bytes(2, "big"), *PICTURE_PARAMETERS),
        *(0xFD, 0xF8, 0xF8, 0),
    )
    return hashlib.sha256(bytes(record)).hexdigest()[:32]


def _sequence_parameters(width: int, height: int, rate: int) -> bytes:
    columns, lines = -(-width // MACROBLOCK), -(-height // MACROBLOCK)
    right, bottom = columns * MACROBLOCK - width, lines * MACROBLOCK - height
    cropping = _ue(0) + _ue(right // 2) + _ue(0) + _ue(bottom // 2) if right or bottom else ""
    bits = (
        # 4:2:0 in 8 bits, no scaling lists; numbers and order of pictures; size in macroblocks
        f"{_ue(0)}{_ue(1)}{_ue(0)}{_ue(0)}00"
        f"{_ue(0)}{_ue(0)}{_ue(ORDER_BITS)}{_ue(REFERENCES)}0{_ue(columns - 1)}{_ue(lines - 1)}11"
        f"{int(bool(cropping))}{cropping}"
        # usability: square pixels; TV range and BT.709; so many fields a second, each alike
        f"11{BT709:08b}0"
        f"1{UNSPECIFIED_FORMAT:03b}01{BT709:08b}{BT709:08b}{BT709:08b}0"
        f"1{1:032b}{2 * rate:032b}0"
        # no buffering model; how far pictures are reordered
        f"00011{_ue(0)}{_ue(0)}{_ue(VECTOR_BITS)}{_ue(VECTOR_BITS)}{_ue(REORDERED)}{_ue(BUFFERED)}1"
    )
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return bytes((0x67, PROFILE_HIGH, 0, LEVEL_IDC)) + body


def _ue(value: int) -> str:
    """Return a number as H.264 writes one of unknown size: as many zeros in front as bits follow."""
    plain = f"{value + 1:b}"
    return "0" * (len(plain) - 1) + plain


def _escaped(unit: bytes) -> bytes:
    """Put a 3 after any two zeros that a byte up to 3 follows: three in a row begin a new unit."""
    out = bytearray()
    zeros = 0
    for byte in unit:
        if zeros == len(b"\0\0") and byte <= ESCAPE:
            out.append(ESCAPE)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)
