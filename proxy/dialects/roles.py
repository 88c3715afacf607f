"""Which of a client's fields is which picture, video or sound.

There is no one name for a first frame: OpenAI, MiniMax, Vidu, DashScope, Runway and the gateways
before them each have their own, and their clients are pointed here unchanged. A name is taken
where its meaning is certain; names are folded, so `firstFrameUrl` is `first_frame_url`. What is
not certain is a 400, for a picture in the wrong place is another video than was asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from proxy.dialects.body import BodyFields, as_mapping, disagreeing, json_text
from proxy.dialects.fields import folded, is_unset, kind_of, shown
from proxy.dialects.media import medium
from proxy.errors import Invalid
from proxy.model import Media, Role

TAKEN = (
    "'input_reference' (or 'image', 'image_url', 'first_frame') for the first frame, 'last_frame' "
    "(or 'image_tail', 'end_frame') for the last one, and 'reference_images', 'reference_videos' "
    "and 'reference_audio'"
)

_FIRST = (
    *("inputreference", "image", "imageurl", "imgurl", "img", "picture", "pictureurl", "photo"),
    *("firstframe", "firstframeimage", "firstframeurl", "firstframeimageurl", "firstimage"),
    *("firstimageurl", "startframe", "startframeimage", "startframeurl", "startframeimageurl"),
    *("startimage", "startimageurl", "startingframe", "startingimage", "initimage", "initimageurl"),
    *("initialimage", "initialimageurl", "initialframe", "inputimage", "inputimageurl"),
    *("promptimage", "imagebase64", "base64image", "imagedata", "imagefile", "imageuri"),
    # vLLM-Omni's and SGLang's own names for it
    *("imagereference", "referenceurl"),
)
_LAST = (
    *("imagetail", "tailimage", "imagetailurl", "tailimageurl", "tailframe", "lastframe"),
    *("lastframeimage", "lastframeurl", "lastframeimageurl", "lastimage", "lastimageurl"),
    *("endframe", "endframeimage", "endframeurl", "endframeimageurl", "endimage", "endimageurl"),
    *("endingframe", "endingimage", "finalframe", "finalimage", "finalframeimage"),
)
_REFERENCES: Mapping[Role, Sequence[str]] = {
    Role.REFERENCE_IMAGE: (
        *("referenceimages", "referenceimage", "referenceimageurls", "referenceimageurl"),
        *("inputreferences", "imagereferences", "refimages", "refimage", "refimageurls"),
    ),
    Role.REFERENCE_VIDEO: (
        *("referencevideos", "referencevideo", "referencevideourls", "referencevideourl"),
        *("videoreferences", "videoreference", "refvideos", "refvideo"),
    ),
    Role.REFERENCE_AUDIO: (
        *("referenceaudio", "referenceaudios", "referenceaudiourls", "referenceaudiourl"),
        *("audioreferences", "audioreference", "refaudio", "refaudios"),
    ),
}
_LISTS = ("images", "imageurls", "inputimages", "imgurls", "pictures", "frameimages", "photos")
# Two pictures under these are the first and the last frame: public clients send them so.
PAIRS = frozenset({"inputreference", "frameimages"})
_ROLES_OF_A_LIST = ("imageroles", "imagerole", "imagesroles")

_ROLE_WORDS: Mapping[str, Role] = {
    **dict.fromkeys(("firstframe", "first", "start", "startframe", "startimage"), Role.FIRST_FRAME),
    **dict.fromkeys(("firstimage", "firstframeimage", "head"), Role.FIRST_FRAME),
    **dict.fromkeys(("lastframe", "last", "end", "endframe", "endimage", "tail"), Role.LAST_FRAME),
    **dict.fromkeys(("lastimage", "lastframeimage", "imagetail", "final"), Role.LAST_FRAME),
    **dict.fromkeys(("referenceimage", "reference", "ref", "subject"), Role.REFERENCE_IMAGE),
    **dict.fromkeys(("referencevideo", "videoreference"), Role.REFERENCE_VIDEO),
    **dict.fromkeys(("referenceaudio", "audioreference"), Role.REFERENCE_AUDIO),
}
# Members of an object that is a picture: those that hold it, those that say its role, others.
_HOLDERS = (
    *("imageurl", "url", "uri", "data", "base64", "b64json", "bytesbase64encoded", "image"),
    *("videourl", "video", "audiourl", "audio"),
)
_SAYERS = ("role", "frametype", "type", "position")
_HARMLESS = ("mimetype", "mediatype", "contenttype", "name", "filename", "format")
_TYPES: Mapping[str, Role | None] = {  # `type` of an object that says no role; None: any
    **dict.fromkeys(("image", "imageurl", "inputimage", "url", "uri", "base64", "file"), None),
    **dict.fromkeys(("video", "videourl", "inputvideo"), Role.REFERENCE_VIDEO),
    **dict.fromkeys(("audio", "audiourl", "inputaudio"), Role.REFERENCE_AUDIO),
}
_ORDER = tuple(Role)


@dataclass(frozen=True, slots=True)
class _Item:
    """A picture's value, and the role it says itself."""

    param: str
    value: object
    role: Role | None


class _Roles:
    """The media found so far: one first and one last frame, any number of references."""

    def __init__(self) -> None:
        self.found: list[Media] = []

    def add(self, media: Media) -> None:
        if media.role in (Role.FIRST_FRAME, Role.LAST_FRAME):
            for other in self.found:
                if other.role is not media.role:
                    continue
                if _is_same(other, media):
                    return
                if other.param == media.param:
                    raise Invalid(
                        f"'{media.param}' holds two pictures for one "
                        f"{media.role.value.replace('_', ' ')}.",
                        param=media.param,
                    )
                raise disagreeing(other.param, media.param)
        self.found.append(media)


def media_of(body: BodyFields, pairs: Collection[str] = PAIRS) -> tuple[Media, ...]:
    """All pictures, videos and sounds under names that are known, in the order of their roles.

    `pairs` are the folded names under which two pictures are the first and the last frame.
    """
    roles = _Roles()
    said = _said_roles(body)
    for name in (*_FIRST, *_LISTS, *sorted(set(pairs) - {*_FIRST, *_LISTS})):
        for each in body.found((name,)):
            items = _items(each.raw, each.param)
            if name in _LISTS and said is not None:
                items = _with_roles(items, said, each.param)
            for media in _placed(items, each.param, is_pair=name in pairs):
                roles.add(media)
    for each in body.found(_LAST):
        items = _items(each.raw, each.param)
        if len(items) > 1:
            raise Invalid(f"'{each.param}' takes one picture, not {len(items)}.", param=each.param)
        for item in items:
            roles.add(medium(item.value, item.param, item.role or Role.LAST_FRAME))
    for role, names in _REFERENCES.items():
        for each in body.found(names):
            for item in _items(each.raw, each.param):
                roles.add(medium(item.value, item.param, item.role or role))
    return ordered(roles.found)


def has_media(body: BodyFields, name: str) -> bool:
    """True when anything stands under this folded name."""
    return any(_items(each.raw, each.param) for each in body.found((name,)))


def content_of(body: BodyFields) -> tuple[str | None, tuple[Media, ...]]:
    """(text, media) of an Ark-style `content` list; anything else under that name stays unread."""
    for name in [name for name in body.top.values if folded(name) == "content"]:
        value = json_text(body.top.values[name], name)
        if not isinstance(value, list) or not any(_type_of(item) for item in value):
            continue
        body.top.raw(name)
        return _read_content(value, name)
    return None, ()


def ordered(media: Iterable[Media]) -> tuple[Media, ...]:
    return tuple(sorted(media, key=lambda item: _ORDER.index(item.role)))


def _read_content(value: Sequence[object], param: str) -> tuple[str | None, tuple[Media, ...]]:
    texts: list[str] = []
    items: list[_Item] = []
    for element in value:
        kind = _type_of(element)
        members = cast("Mapping[str, object]", element)
        if kind == "text" and isinstance(members.get("text"), str):
            texts.append(cast("str", members["text"]))
        elif kind in ("imageurl", "videourl", "audiourl"):
            items += _items(element, param)
        else:
            raise Invalid(
                f"'{param}' takes elements of type text, image_url, video_url and audio_url, "
                f"not {shown(members.get('type')) if members else kind_of(element)}.",
                param=param,
            )
    roles = _Roles()
    for media in _placed(items, param, is_pair=False):
        roles.add(media)
    return "\n".join(texts) or None, ordered(roles.found)


def _type_of(element: object) -> str | None:
    members = as_mapping(element)
    kind = members.get("type") if members is not None else None
    return folded(kind) if isinstance(kind, str) else None


def _placed(items: Sequence[_Item], param: str, *, is_pair: bool) -> list[Media]:
    """The items by the roles they say; one or, of a pair, two that say none by their places."""
    silent = [item for item in items if item.role is None]
    places: Sequence[Role] = (Role.FIRST_FRAME,)
    if is_pair and len(silent) == len(items) == 2:
        places = (Role.FIRST_FRAME, Role.LAST_FRAME)
    if len(silent) > len(places):
        most = "a first frame and at most a last one" if is_pair else "one picture"
        raise Invalid(
            f"'{param}' takes {most}, not {len(silent)} pictures without a role; send "
            "'first_frame' and 'last_frame', or 'reference_images', or a role with each "
            '(\'image_roles\', or {"url": …, "role": …}).',
            param=param,
        )
    left = iter(places)
    return [medium(item.value, item.param, item.role or next(left)) for item in items]


def _items(value: object, param: str) -> list[_Item]:
    """What stands under one name: a value or a list of values, each alone or in an object."""
    value = json_text(value, param)
    if not isinstance(value, list):
        return [] if is_unset(value) else [_item(value, param)]
    found = []
    for listed in value:
        element = json_text(listed, param)
        if isinstance(element, list):
            raise Invalid(f"'{param}' holds a list inside a list.", param=param)
        if not is_unset(element):
            found.append(_item(element, param))
    return found


def _item(value: object, param: str) -> _Item:
    members = as_mapping(value)
    if members is None:
        return _Item(param, value, None)
    known = {folded(name): name for name, inner in members.items() if not is_unset(inner)}
    if "fileid" in known:
        if any(name in known for name in _HOLDERS):
            raise _not_one(param)
        path = f"{param}.{known['fileid']}"
        raise Invalid(
            f"'{path}' is not supported: send the picture itself or 'image_url'.", param=path
        )
    for fold, name in known.items():
        if fold not in (*_HOLDERS, *_SAYERS, *_HARMLESS):
            raise Invalid(
                f"'{param}' takes 'image_url' or 'url' and a 'role', not {name[:40]!r}.",
                param=param,
            )
    holders = [name for fold, name in known.items() if fold in _HOLDERS]
    if len(holders) != 1:
        raise _not_one(param)
    inner = _item(members[holders[0]], f"{param}.{holders[0]}")
    role = inner.role
    for fold in _SAYERS:
        if fold in known:
            role = _role_of(members[known[fold]], fold, f"{param}.{known[fold]}") or role
    if role is None and folded(holders[0]) in _TYPES:
        role = _TYPES[folded(holders[0])]
    return _Item(inner.param, inner.value, role)


def _not_one(param: str) -> Invalid:
    return Invalid(
        f"'{param}' takes exactly one of 'image_url' and 'file_id'.",
        param=param,
    )


def _role_of(value: object, fold: str, param: str) -> Role | None:
    word = folded(value) if isinstance(value, str) else ""
    if word in _ROLE_WORDS:
        return _ROLE_WORDS[word]
    if fold == "type" and word in _TYPES:
        return _TYPES[word]
    if fold == "type" and isinstance(value, str) and "/" in value:
        return None  # a media type
    raise Invalid(
        f"'{param}' must be first_frame, last_frame, reference_image, reference_video or "
        f"reference_audio, not {shown(value)}.",
        param=param,
    )


def _said_roles(body: BodyFields) -> tuple[str, list[Role]] | None:
    for each in body.found(_ROLES_OF_A_LIST):
        value = json_text(each.raw, each.param)
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, list):
            raise Invalid(f"'{each.param}' must be a list of roles.", param=each.param)
        roles = [_role_of(word, "role", each.param) for word in words]
        return each.param, [role for role in roles if role is not None]
    return None


def _with_roles(items: Sequence[_Item], said: tuple[str, list[Role]], param: str) -> list[_Item]:
    name, roles = said
    if len(roles) != len(items):
        raise Invalid(
            f"'{name}' has {len(roles)} roles for the {len(items)} pictures of '{param}'.",
            param=name,
        )
    return [_Item(item.param, item.value, role) for item, role in zip(items, roles, strict=True)]


def _is_same(one: Media, other: Media) -> bool:
    if one.blob is not None and other.blob is not None:
        return one.blob.sha256 == other.blob.sha256
    return one.blob is other.blob and one.url == other.url
