"""Which fields that no rule of ours reads may go on to an upstream.

Rule: what is priced is decided by fields we read. So no field of a client's goes on under a name
that a lenient server could take for one of those: names are compared `folded`. Some names never
go on, whatever a route passes: they name files, models, addresses or devices on the machine that
renders, or they replace the whole body.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Final

import orjson

from proxy.http.outbound import Terms
from proxy.model import Json
from proxy.providers import globs

# What may stand as a field's name on the wire; brackets and dots reach into other fields.
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

# Folded names, by what they hold. Sources: vllm-omni docs/serving/videos_api.md, sglang
# multimodal_gen protocol.py, LiteLLM's proxy parameters (2026-11).
_NEVER: Final = re.compile(
    r"(lora|profile|perf|attention|skipsoftmax|cachedit|diffusers|litellm|custom|mock|auth"
    r"|extra(body|param|arg|header|query|json|field)|api|callback|webhook|notify|upscal"
    r"|torch|tensor).*"
    r"|.*(path|imageur[li]|videour[li]|audiour[li]|kwargs|device|model|checkpoint|weights).*"
    r"|.*(backend|file).*"
    r"|.*(dir|directory|folder|repo|repository|ur[li]s?)"
    r"|ur[li].*"
)

# Fields that say how much is rendered, under their own spelling. A route without a price may pass
# them on by name; a route with one never does, for nobody would have priced them.
MOVERS: Final = frozenset(
    {
        *("num_frames", "fps", "mode", "quality", "num_inference_steps", "short_edge", "long_edge"),
        *("num_outputs", "num_outputs_per_prompt", "num_videos", "num_videos_per_prompt"),
        *("sound_duration", "enable_frame_interpolation", "frame_interpolation_exp"),
        *("frame_interpolation_scale", "service_tier", "priority"),
    }
)

# Every name we read or price, and what other APIs call the same things.
_KNOWN: Final = frozenset(
    {
        *("prompt", "negativeprompt", "model", "modelname", "reqkey", "mode", "quality"),
        *("qualitylevel", "seed", "style", "user", "responseformat", "operation"),
        *("seconds", "second", "duration", "durations", "durationseconds", "durationsec"),
        *("durationms", "nseconds", "numseconds", "videolength", "videoduration"),
        *("length", "lengthseconds", "time", "frames", "nframes", "numframes", "numframe"),
        *("framecount", "framenum", "framesnum", "videoframes", "totalframes", "maxframes"),
        *("fps", "framerate", "framespersecond", "targetfps", "videofps", "outputfps"),
        *("size", "imagesize", "videosize", "width", "height", "resolution", "dimensions"),
        *("aspectratio", "ratio", "orientation", "shortedge", "longedge", "shortside", "longside"),
        *("n", "count", "nvariants", "numvariants", "numoutputs", "numoutputsperprompt"),
        *("numvideos", "numvideosperprompt", "numimages", "numimagesperprompt", "numsamples"),
        *("samples", "batch", "batchsize", "batchcount", "samplecount", "numgenerations"),
        *("audio", "sound", "generateaudio", "generatesound", "withaudio", "enableaudio"),
        *("soundduration", "audioduration", "tier", "servicetier", "priority"),
        *("steps", "numsteps", "inferencesteps", "numinferencesteps", "samplingsteps"),
        *("enableframeinterpolation", "frameinterpolation", "frameinterpolationexp"),
        *("frameinterpolationscale", "interpolation", "interpolate", "externaltaskid", "taskid"),
        *("metadata", "inputreference", "imagereference", "referenceurl", "image", "images"),
        *("imagetail", "imageurls", "binarydatabase64", "video", "videos", "firstframe"),
        *("lastframe", "endframe", "referenceimages", "referencevideos", "content", "input"),
        *("parameters", "options", "config", "params", "request", "body", "data", "payload"),
    }
)


_NO_LETTERS: Final = re.compile(r"[^a-z0-9]+")


def folded(name: str) -> str:
    """The letters and digits of a name, without case: `metadata[n-Seconds]` is metadatanseconds."""
    if name.isascii():  # nearly always, and ten times as fast
        return _NO_LETTERS.sub("", name.lower())
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def is_named(name: str, patterns: Collection[str]) -> bool:
    return any(globs.matches(pattern, name) for pattern in patterns)


def is_passed(name: str, value: Json, terms: Terms) -> bool:
    """Whether a field that no rule reads goes on because the operator names it."""
    if not is_named(name, terms.passes) or is_never(name):
        return False
    if name in MOVERS:
        return not terms.is_priced and not isinstance(value, dict | list)
    return not is_ours(name) and is_harmless(value)


def is_never(name: str) -> bool:
    """Whether no client may send it, whoever names it."""
    return _PLAIN.fullmatch(name) is None or _NEVER.fullmatch(folded(name)) is not None


def is_ours(name: str) -> bool:
    """Whether a lenient server may take it for a field that we read or price."""
    return folded(name) in _KNOWN


def is_harmless(value: Json) -> bool:
    """Whether no name inside it, JSON text included, is one of ours or one that never goes on."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return True
    if isinstance(value, dict):
        return all(
            not is_never(name) and not is_ours(name) and is_harmless(inner)
            for name, inner in value.items()
        )
    if isinstance(value, list):
        return all(is_harmless(inner) for inner in value)
    return True
