"""The kinds of servers that speak `/v1/videos`, a row of facts each, and an upstream's `options`.

Sources: vllm-omni docs/serving/videos_api.md, sglang
multimodal_gen/runtime/entrypoints/openai/video_api.py (2026-11), Microsoft Learn "Video generation"
(2026-11), LiteLLM's proxy (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from proxy.model import Operation, Role, Upstream
from proxy.providers.catalogue.row import ModelRow, Sound
from proxy.providers.openai.answers import OPEN_DOOR, Door
from proxy.providers.openai.rules import Flag, Number, Rule
from proxy.providers.refusals import RefusedStatuses

Server: TypeAlias = Literal["openai", "azure", "vllm-omni", "sglang", "litellm", "reelway"]

ALL = frozenset({Operation.CREATE, Operation.REMIX, Operation.EDIT, Operation.EXTEND})
_CREATE = frozenset({Operation.CREATE})


class OpenAIOptions(BaseModel):
    """`options` of an upstream with `provider = "openai"`.

    `server` is the software behind `base_url`; any other that speaks `/v1/videos` as OpenAI's
    document has it is "openai". `version` is that software's, where an older one does less; None
    is its newest. `seconds` and `sizes` are what its model renders: a request is fitted to the
    next one up; none sends on whatever is asked, up to `max_seconds` and to sides of 16 to 8192
    pixels. `pass` are globs over further fields of the client's that go on (with those of the
    route). `body` and `seconds_as` are for gateways that take JSON only, or a number.
    `random_seed` sends a seed where the client names none: SGLang's own is always 42.
    `refused_statuses` are HTTP statuses by which it says that it began nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: Server = "openai"
    version: Annotated[str, Field(pattern=r"^\d{1,4}\.\d{1,4}(\.\w{1,16})*$")] | None = None
    seconds: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    sizes: (
        Annotated[
            tuple[Annotated[str, Field(pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")], ...],
            Field(min_length=1),
        ]
        | None
    ) = None
    refused_statuses: RefusedStatuses = ()
    max_seconds: PositiveInt = 600
    passes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_*?-]{1,64}$")], ...] = Field(
        default=(), alias="pass"
    )
    body: Literal["form", "json"] | None = None
    seconds_as: Literal["text", "integer"] | None = None
    random_seed: bool = False

    @model_validator(mode="after")
    def _body_fits(self) -> Self:
        if self.server == "vllm-omni" and self.body == "json":
            raise ValueError("body must be 'form' for vllm-omni, which reads nothing else")
        return self

    @property
    def keyless(self) -> bool:
        """Whether the server may have been started without a key."""
        return self.server in ("vllm-omni", "sglang")

    @property
    def longest(self) -> int:
        return max(self.seconds or (self.max_seconds,))


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one server from another.

    `fetches`: a picture may go to it by its address, as OpenAI's `input_reference: {image_url}`.
    A server of the operator's own must not fetch what a client names, from inside its network:
    there the gateway fetches the picture and uploads it. `nested_as_text`: other objects and lists
    go as JSON text too, since the form's parser knows no bracketed names. `audio` is the field that
    switches sound on, `always` or `never` where there is none. `fields` are the common ones beyond
    OpenAI's
    document that it understands; `courtesy` are those that an OpenAI client may try, where nobody
    knows what the server understands. `extras` are its own fields that a client may send: harmless
    there, and priced where they count. `frame_rate`: it takes `num_frames`, and plays them at this
    rate when no `fps` is sent (0: it knows no frames); `whole_rate`: `fps` is a whole number.
    `hosts_sora`: what it calls sora-2 is that model. `door` is how it refuses a submit.
    `stops_from` is the first version whose DELETE stops a render; None: its DELETE drops the record
    at most. `replicas` is False for a single server that keeps its jobs in memory.
    """

    operations: frozenset[Operation] = ALL
    auth: Literal["authorization", "api-key"] = "authorization"
    json_without_file: bool = False
    integer_seconds: bool = False
    fetches: bool = True
    nested_as_text: bool = False
    audio: Literal["always", "never", "generate_sound", "audio"] = "always"
    fields: frozenset[str] = frozenset()
    courtesy: frozenset[str] = frozenset()
    extras: Mapping[str, Rule] = field(default_factory=dict)
    frame_rate: int = 0
    whole_rate: bool = False
    variants: tuple[str, ...] = ("video", "thumbnail", "spritesheet")
    default_seconds: str = "4"  # "": its model decides
    default_size: str = "720x1280"
    door: Door = OPEN_DOOR
    stops_from: tuple[int, int] | None = None
    hosts_sora: bool = False
    tells_cancel: bool = False  # it says in `reelway-cancel` what became of the render
    replicas: bool = True


_GUIDANCE = Number(0, 20)
_DIFFUSION: Mapping[str, Rule] = {
    "num_frames": Number(1, 100_000, whole=True),  # and no longer than the model renders
    "num_inference_steps": Number(1, 100, whole=True),
    "guidance_scale": _GUIDANCE,
    "guidance_scale_2": _GUIDANCE,
    "true_cfg_scale": _GUIDANCE,
    "flow_shift": Number(0, 100),
}
_SAID = frozenset({"negative_prompt", "seed", "style", "user", "response_format"})

SERVERS: Mapping[Server, Traits] = {
    "openai": Traits(courtesy=_SAID, hosts_sora=True),
    "azure": Traits(auth="api-key", hosts_sora=True),  # it refuses what its document does not have
    "vllm-omni": Traits(
        operations=_CREATE,
        fetches=False,
        nested_as_text=True,
        audio="generate_sound",
        fields=frozenset({"negative_prompt", "seed", "fps", "quality", "aspect_ratio", "user"}),
        extras={
            **_DIFFUSION,
            "boundary_ratio": Number(0, 1),
            "generate_sound": Flag(),
        },
        frame_rate=24,
        variants=("video",),
        default_seconds="",
        default_size="",
        # With --api-server-count above 1 every call of /v1/videos is a 409.
        door=Door(overloaded=frozenset({503}), absent=frozenset({409})),
        stops_from=(0, 30),
        replicas=False,
    ),
    "sglang": Traits(
        operations=_CREATE,
        json_without_file=True,
        integer_seconds=True,
        fetches=False,
        audio="never",
        fields=frozenset({"negative_prompt", "seed", "fps"}),
        extras={**_DIFFUSION, "enable_teacache": Flag()},
        frame_rate=24,
        whole_rate=True,
        variants=("video",),
        default_size="",
        door=Door(overloaded=frozenset({503})),  # "Scheduler worker exited; restart the server."
        replicas=False,
    ),
    "litellm": Traits(
        fields=frozenset({"negative_prompt", "seed", "user"}),
        variants=("video",),
        default_seconds="",
        default_size="",
    ),
    "reelway": Traits(
        audio="audio", fields=_SAID, default_seconds="", default_size="", tells_cancel=True
    ),
}


def options_of(upstream: Upstream) -> OpenAIOptions:
    return upstream.options if isinstance(upstream.options, OpenAIOptions) else OpenAIOptions()


def fitted_options(options: OpenAIOptions, row: ModelRow) -> OpenAIOptions:
    """The options with what the operator's row of the model says, where they say nothing."""
    return options.model_copy(
        update={
            "seconds": options.seconds or row.seconds,
            "sizes": options.sizes or row.sizes,
            "max_seconds": min(options.max_seconds, row.max_seconds or options.max_seconds),
        }
    )


def known_of(options: OpenAIOptions, row: ModelRow) -> ModelRow:
    """What is known of a model behind a kind of server: its row, and the server's own facts where
    the row says nothing. The operator's `options` come first."""
    traits = SERVERS[options.server]
    sounds: dict[str, Sound] = {"never": "never", "always": "always"}
    told: dict[str, object] = {"seconds": options.seconds, "sizes": options.sizes}
    usual: dict[str, object] = {
        "operations": tuple(op for op in Operation if op in traits.operations),
        "max_seconds": options.max_seconds,
        "default_seconds": int(traits.default_seconds) if traits.default_seconds else None,
        "default_size": traits.default_size or None,
        "fps": traits.frame_rate or None,
        "audio": sounds.get(traits.audio, "option"),
        "inputs": {Role.FIRST_FRAME: 1},
        "from_text": True,
        "n": 1,
        "seed": "seed" in traits.fields,
        "negative_prompt": "negative_prompt" in traits.fields,
    }
    facts = {name: value for name, value in told.items() if value is not None}
    facts |= {name: value for name, value in usual.items() if getattr(row, name) is None}
    return row.model_copy(update=facts)
