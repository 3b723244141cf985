"""A cut that is exact to the frame at both ends: what is kept is encoded again."""

import re
from fractions import Fraction

from app.domain.media import AudioInfo, MediaInfo, VideoInfo
from app.operations import ffmpeg
from app.operations.base import ClipInput, Expected, FFmpegStep, Plan, PlannedOutput
from app.operations.filenames import output_name
from app.operations.timecode import say
from app.operations.trim_cut import Cut, audible

OUTPUT_FILE = "trimmed.mp4"

SOUND_TOLERANCE = 0.015
"""Seconds: gaps of the sound up to this long are closed, longer ones become silence. A lost packet
leaves 20 ms or more; some cameras' times tremble by a few."""
DROPPED_SECONDS = 0.2
"""An evenly spaced clip may all the same lack a few frames, also where a cut ends."""
CRF = "18"
PRESET = "veryfast"

KEPT_FORMATS = frozenset(
    {
        *("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"),
        *("yuv420p10le", "yuv422p10le", "yuv444p10le", "gray", "gray10le"),
    }
)
"""Pixel formats that the encoder takes as they are."""
DEEP = re.compile(r"(9|10|12|14|16|32)(le|be)?$|p01[0-9]")
TALLEST_SUBSAMPLED = ("420", "422")
KEPT_AUDIO_RATES = frozenset(
    {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
)
MOST_CHANNELS = 8
AUDIO_KBIT = {1: 96, 2: 192}
AUDIO_KBIT_PER_CHANNEL = 80


def exact_plan(clip: ClipInput, cut: Cut, why: str = "") -> Plan:
    """Return the one step that encodes what is kept; ``why`` is said before what that means."""
    audio = audible(clip.media.audio, cut)
    step = FFmpegStep(
        name="trim",
        weight=1.0,
        arguments=(
            *ffmpeg.GLOBAL,
            *_input(clip, cut),
            *ffmpeg.OUTPUT,
            *_video_options(clip.media.video, cut),
            *(_audio_options(audio, clip.media.video, cut) if audio else ("-an",)),
            *ffmpeg.MP4,
        ),
        output=OUTPUT_FILE,
        expected=Expected(
            duration_seconds=float(cut.length),
            duration_tolerance=_tolerance(clip.media, cut),
            has_audio=audio is not None,
            # No frame from beyond the end can be in it, but the last one may be shown for long.
            overrun_tolerance=clip.media.duration_seconds,
        ),
        pixels=clip.media.video.width * clip.media.video.height,
    )
    return Plan(
        steps=(step,),
        outputs=(PlannedOutput(OUTPUT_FILE, output_name(clip.filename, "trim"), "video/mp4"),),
        result={
            "mode": "exact",
            "start_seconds": round(float(cut.start), 6),
            "end_seconds": round(float(cut.end), 6),
            "reason": why
            + (
                "Re-encoded, so that the cut is exact to the frame at both ends: kept are the "
                f"frames from {say(cut.start)} up to {say(cut.end)}."
            ),
        },
        warnings=tuple(_changes(clip.media, cut)),
        effort=_effort(clip.media, cut),
    )


def _effort(media: MediaInfo, cut: Cut) -> float:
    """Return the megapixels to encode; 0 where the rate is only told and there may be fewer frames."""
    video = media.video
    if video.frame_rate is None or not ffmpeg.is_even(media):
        return 0.0
    frames = float(cut.length * Fraction(video.frame_rate))
    return frames * video.width * video.height / 1e6


def _input(clip: ClipInput, cut: Cut) -> tuple[str, ...]:
    origin = ffmpeg.start_seconds(clip.media.video)
    return ffmpeg.foreign_clip(clip.name, clip.media, from_seconds=origin + cut.start)


def _video_options(video: VideoInfo, cut: Cut) -> tuple[str, ...]:
    bounds = f"start_pts={cut.first}" + ("" if cut.stop is None else f":end_pts={cut.stop}")
    # Colour tags need no option: they travel with the frames.
    filters = [f"trim={bounds}", f"setpts=PTS-({cut.first})"]
    pixel_format = kept_format(video.pixel_format)
    if must_lose_a_line(video):
        filters.append("crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0")
    return (
        *("-filter:v", ",".join(filters), "-fps_mode", "passthrough"),
        *("-enc_time_base:v", video.time_base),
        *("-c:v", "libx264", "-preset", PRESET, "-crf", CRF, "-threads", ffmpeg.THREADS),
        *("-pix_fmt", pixel_format),
    )


def _audio_options(audio: AudioInfo, video: VideoInfo, cut: Cut) -> tuple[str, ...]:
    origin = ffmpeg.start_seconds(video)
    start = ffmpeg.seconds(origin + cut.start)
    end = ffmpeg.seconds(origin + cut.end)
    channels = min(audio.channels, MOST_CHANNELS)
    kbit = AUDIO_KBIT.get(channels, channels * AUDIO_KBIT_PER_CHANNEL)
    filters = (
        f"atrim=start={start}:end={end}",
        f"asetpts=PTS-({start})/TB",
        # Sound that begins late or has gaps gets silence there: players differ on empty stretches.
        f"aresample=async=1:first_pts=0:min_hard_comp={SOUND_TOLERANCE}",
        # A track without a sample would not be written: where there is but a gap, it is silent.
        "apad=whole_len=1",
    )
    return (
        *("-filter:a", ",".join(filters), "-c:a", "aac", "-b:a", f"{kbit}k"),
        *(("-ac", str(channels)) if audio.channels > MOST_CHANNELS else ()),
        *(() if audio.sample_rate in KEPT_AUDIO_RATES else ("-ar", "48000")),
    )


def _tolerance(media: MediaInfo, cut: Cut) -> float:
    """A frame, a tick and what may be dropped; unevenly spaced, one may be as long as the cut."""
    video = media.video
    dropped = max(DROPPED_SECONDS, float(ffmpeg.longest_dropped(media)))
    one = video.frame_seconds + float(Fraction(video.time_base)) + dropped
    return one if ffmpeg.is_even(media) else max(one, float(cut.length))


def kept_format(pixel_format: str) -> str:
    """Return the pixel format to encode: the source's, else the nearest the encoder has."""
    if pixel_format in KEPT_FORMATS:
        return pixel_format
    deep = "10le" if DEEP.search(pixel_format) else ""
    for chroma in ("422", "444"):
        if chroma in pixel_format:
            return f"yuv{chroma}p{deep}"
    if pixel_format.startswith(("gbr", "rgb", "bgr", "argb", "abgr")):
        return f"yuv444p{deep}"
    return f"yuv420p{deep}"


def must_lose_a_line(video: VideoInfo) -> bool:
    """Whether the size is odd where colour is stored for pairs of pixels."""
    subsampled = any(s in kept_format(video.pixel_format) for s in TALLEST_SUBSAMPLED)
    return subsampled and bool(video.width % 2 or video.height % 2)


def _changes(media: MediaInfo, cut: Cut) -> list[str]:
    """Say what the result has otherwise than the clip, beyond its length."""
    video, audio = media.video, media.audio
    target = kept_format(video.pixel_format)
    said = {
        f"The rotation of {video.rotation} degrees was applied to the picture.": video.rotation,
        f"The video was re-encoded from {video.codec} to h264.": video.codec != "h264",
        f"The pixel format {video.pixel_format} became {target}.": target != video.pixel_format,
        "The size was odd: one line or column was cut off.": must_lose_a_line(video),
    }
    changes = [sentence for sentence, applies in said.items() if applies]
    if audio is not None:
        changes += _audio_changes(audio, cut)
    others = media.stream_count - (1 if audio is None else 2)
    if others > 0:
        changes.append(f"Only the first video and sound were kept; {others} more left out.")
    return changes


def _audio_changes(audio: AudioInfo, cut: Cut) -> list[str]:
    if audible(audio, cut) is None:
        return ["The kept part has no sound."]
    said = {
        f"The sound was re-encoded from {audio.codec} to aac.": audio.codec != "aac",
        f"{audio.channels} channels became {MOST_CHANNELS}.": audio.channels > MOST_CHANNELS,
        f"The sample rate {audio.sample_rate} Hz became 48000 Hz.": (
            audio.sample_rate not in KEPT_AUDIO_RATES
        ),
    }
    return [sentence for sentence, applies in said.items() if applies]
