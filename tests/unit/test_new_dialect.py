"""A dialect is its class and one line in the registry: nothing else of the house names it.

`Toy` is a dialect that no other module has heard of. It stands in a registry of its own beside the
real ones, so whatever works here follows from its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jwt
import orjson
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.dialects import DIALECTS
from proxy.dialects.base import (
    AuthScheme,
    Dialect,
    Endpoint,
    FieldNames,
    PageRequest,
    View,
    encoded,
    error_object,
    json_reply,
)
from proxy.dialects.body import BodyFields
from proxy.dialects.common_fields import require_prompt, video_request
from proxy.dialects.fields import Fields
from proxy.dialects.openapi import ApiDocs, OperationDoc, object_of
from proxy.dialects.registry import IncompleteDialectError, registry_of
from proxy.dialects.schemas import FAILURE, QUOTE, SUBMIT, TEXT
from proxy.errors import EndpointNotFound, Invalid, NotFound, ProxyError, Unauthenticated
from proxy.gateway.auth import Authenticator
from proxy.gateway.endpoints import EndpointTable
from proxy.gateway.memos import RequestMemos
from proxy.gateway.openapi import data_document
from proxy.model import (
    Call,
    DialectName,
    Json,
    Kind,
    Operation,
    Reply,
    Stage,
    Status,
    Task,
    VideoRequest,
)
from proxy.signing import format_token, new_token, secret_key, token_hash
from proxy.store import OwnerRecord, TokenRecord
from proxy.store.cache import ReadCache
from proxy.store.notice import notice_of
from proxy.telemetry.exchange import Head

FACTS = tuple(Dialect.__annotations__)
FUNCTIONS = tuple(n for n, value in vars(Dialect).items() if callable(value) and n[0] != "_")
CLIPS, CLIP = "/toy/v2/clips", "/toy/v2/clips/{task_id}"


class Toy:
    """Dialect `toy`: answers `{"clip": …}`, refuses as `{"oops": …}`."""

    name: DialectName = "toy"
    title = "Toy"
    home = "/toy/…"
    endpoints: Sequence[Endpoint] = (
        Endpoint("POST", CLIPS, Operation.CREATE),
        Endpoint("GET", CLIP, Operation.GET),
        Endpoint("GET", "/toy/v2/engines", Operation.MODELS),
    )
    path_prefixes: tuple[str, ...] = ("/toy",)
    field_names = FieldNames("engine", "runtime", "still", "canvas", "noise")
    accepts_forms = False
    request_id_in_body = False
    notifies_every_change = True
    has_external_ids = False
    auth_schemes = frozenset({AuthScheme.JWT})
    decisive_native: frozenset[str] = frozenset({"choreography"})
    idle_native: Mapping[str, Json] = {}
    docs = ApiDocs(
        phrase="Toy's",
        failure="ToyOops",
        operations={
            Operation.CREATE: OperationDoc("Make a clip", ("ToyClip", "Quote"), "ToyWish", False),
            Operation.GET: OperationDoc("Retrieve a clip", ("ToyClip",), parameters=SUBMIT),
            Operation.MODELS: OperationDoc("List engines", ("ToyEngines",)),
        },
        schemas={
            "ToyWish": object_of(prompt=TEXT),
            "ToyClip": object_of(clip=TEXT),
            "ToyEngines": object_of(engines={"type": "array", "items": TEXT}),
            "ToyOops": object_of(oops=FAILURE),
            "Quote": QUOTE,
        },
        security={"toyJwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
    )

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        return require_prompt(video_request(call, BodyFields(fields), default_model))

    def reference(self, call: Call, fields: Fields) -> str:
        return call.params["task_id"]

    def page(self, call: Call) -> PageRequest:
        raise NotImplementedError

    def created(self, view: View, request_id: str) -> Reply:
        return self.task(view, request_id)

    def task(self, view: View, request_id: str) -> Reply:
        return json_reply(200, encoded({"clip": view.task.id}))

    def listing(
        self, page: PageRequest, views: Sequence[View], has_more: bool, request_id: str
    ) -> Reply:
        raise NotImplementedError

    def deleted(self, view: View, request_id: str) -> Reply:
        raise NotImplementedError

    def models(
        self, found: Mapping[str, Mapping[str, Json]], created_s: int, request_id: str
    ) -> Reply:
        return json_reply(200, encoded({"engines": list(found)}))

    def model(self, name: str, video: Mapping[str, Json], created_s: int, request_id: str) -> Reply:
        raise NotImplementedError

    def notice(self, view: View, status: Status, event_id: str, created_ms: int) -> bytes:
        return encoded({"clip": view.task.id, "is": status.value})

    def missing(self, call: Call, reference: str, request_id: str) -> Reply:
        return self.failure(NotFound(f"There is no clip '{reference}'."), request_id)

    def quoted(self, document: Mapping[str, Json], request_id: str) -> Reply:
        return json_reply(200, encoded(document))

    def failure(self, error: ProxyError, request_id: str) -> Reply:
        return json_reply(error.status, encoded({"oops": error_object(error)}), error.headers)


ALL = registry_of(*DIALECTS.values(), Toy())
TABLE = EndpointTable(ALL)
TASK = Task(
    id="video_1",
    owner="acme",
    token_id="abcdefghijklmnop",
    dialect="toy",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="m",
    created_ms=1,
    updated_ms=1,
    stage=Stage.QUEUED,
    webhook="https://hook.example",
)


# ---------------------------------------------------------------- what follows from the class


def test_its_requests_are_its_own() -> None:
    call = TABLE.match("GET", "/toy/v2/clips/video_1", {})
    assert (call.dialect, call.operation) == ("toy", Operation.GET)
    assert ALL[call.dialect].reference(call, Fields({})) == "video_1"
    submit = TABLE.match("POST", CLIPS, {})
    request = ALL["toy"].submission(submit, Fields({"prompt": "a cat"}), "m")
    assert (request.dialect, request.model, request.prompt) == ("toy", "m", "a cat")


def test_the_table_says_where_it_is() -> None:
    assert TABLE.homes() == (
        "/v1/videos (OpenAI), /v1/video/generations (generic), /kling/… (Kling), /jimeng/ (Jimeng) "
        "and /toy/… (Toy)"
    )


def test_what_is_no_endpoint_of_its_is_refused_in_its_words() -> None:
    name = TABLE.probable_dialect("/toy/v1/clips")
    assert name == "toy"
    reply = ALL[name].failure(EndpointNotFound("There is no endpoint."), "req_1")
    assert (reply.status, orjson.loads(reply.body)["oops"]["message"]) == (
        404,
        "There is no endpoint.",
    )


async def test_its_scheme_is_checked_and_is_no_other_dialects() -> None:
    """A JWT opens the door of a dialect that signs with one, and is malformed elsewhere."""
    token_id, secret = new_token(bytes(range(64)))
    record = TokenRecord(token_id, token_hash(secret), "a key", "an owner", 0)

    async def records(_: str) -> TokenRecord:
        return record

    async def owners(_: str) -> OwnerRecord:
        return OwnerRecord("an owner")

    async def no_body(_: int) -> bytes:
        raise AssertionError("a bearer needs no body")

    auth = Authenticator(
        ReadCache(records, lambda: True, 10),
        ReadCache(owners, lambda: True, 10),
        [b"s" * 32],
        lambda: 1e9,
        RequestMemos(),
    )
    claims = {"iss": token_id, "exp": 1e9 + 60, "nbf": 1e9 - 5}
    signed = jwt.encode(claims, secret_key(b"s" * 32, token_id, record.generation), "HS256")

    async def ask(shown: str, dialect: str) -> str:
        headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {shown}"}))
        head = Head("GET", CLIPS, CLIPS, (), headers, "192.0.2.1")
        return (await auth.authenticate(head, ALL[dialect].auth_schemes, no_body)).principal.owner

    assert await ask(signed, "toy") == "an owner"
    assert await ask(format_token(token_id, secret), "toy") == "an owner"
    with pytest.raises(Unauthenticated, match="malformed"):
        await ask(signed, "generic")


def test_the_document_describes_it() -> None:
    described = orjson.loads(data_document(TABLE))
    submit = described["paths"][CLIPS]["post"]
    assert (submit["tags"], submit["summary"]) == (["toy"], "Make a clip")
    assert submit["security"] == [{"apiKey": []}, {"toyJwt": []}]
    failure = submit["responses"]["default"]["content"]["application/json"]["schema"]
    assert failure == {"$ref": "#/components/schemas/ToyOops"}
    assert {"ToyWish", "ToyClip", "ToyOops", "Video"} <= described["components"]["schemas"].keys()
    assert "Jimeng's, Toy's)" in described["info"]["description"]


def test_its_webhooks_follow_every_change_because_it_says_so() -> None:
    moved = replace(TASK, stage=Stage.IN_PROGRESS, version=2)
    hook = notice_of(TASK, moved, ALL)
    assert hook is not None
    body = ALL[hook.dialect].notice(View(moved), hook.status, "evt_1", hook.created_ms)
    assert orjson.loads(body) == {"clip": "video_1", "is": "in_progress"}


def test_a_dialect_that_this_version_does_not_know_is_told_the_end_alone() -> None:
    """During a rolling upgrade an old worker follows the tasks of a new one's dialects."""
    assert "toy" not in DIALECTS
    assert notice_of(TASK, replace(TASK, stage=Stage.IN_PROGRESS)) is None
    assert notice_of(TASK, replace(TASK, stage=Stage.COMPLETED)) is not None


# ---------------------------------------------------------------- what a class must say


def lacking(name: str) -> Dialect:
    """`Toy` without one of its members."""
    members = {key: value for key, value in vars(Toy).items() if key != name}
    return cast("Dialect", type("Lacking", (), members)())


def stating(**facts: Any) -> Dialect:
    """`Toy` with other facts."""
    return cast("Dialect", type("Stating", (Toy,), facts)())


@pytest.mark.parametrize("fact", FACTS)
def test_a_dialect_without_a_fact_is_no_dialect(fact: str) -> None:
    """It is refused when it is registered; the first request to need the fact never comes."""
    with pytest.raises(IncompleteDialectError, match=rf"Lacking is no .*: it states no {fact}$"):
        registry_of(*DIALECTS.values(), lacking(fact))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_dialect_without_a_function_is_no_dialect(name: str) -> None:
    with pytest.raises(IncompleteDialectError, match=rf"it has no {name}\("):
        registry_of(lacking(name))


def test_the_recipe_names_every_fact_and_function() -> None:
    recipe = (Path(__file__).parents[2] / "docs/dialects.md").read_text()
    functions = [
        name for name, value in vars(Dialect).items() if callable(value) and name[0] != "_"
    ]
    assert [
        name for name in (*Dialect.__annotations__, *functions) if f"`{name}`" not in recipe
    ] == []


def test_everything_a_dialect_lacks_is_said_at_once() -> None:
    class Bare:
        name = "bare"

    with pytest.raises(IncompleteDialectError) as refused:
        registry_of(cast("Dialect", Bare()))
    said = str(refused.value)
    assert all(f"it states no {fact}" in said for fact in FACTS if fact != "name")
    assert "it has no failure(error, request_id)" in said


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"accepts_forms": "no"}, "its accepts_forms is no bool"),
        ({"field_names": {"model": "engine"}}, "its field_names is no FieldNames"),
        ({"name": "Toy Story"}, "its name 'Toy Story' is not of lower-case letters"),
        ({"name": "kling"}, "the name 'kling' is another dialect's"),
        ({"endpoints": ()}, "it has no endpoints"),
        (
            {"endpoints": (*Toy.endpoints, Endpoint("DELETE", CLIP, Operation.DELETE))},
            "its docs do not describe DELETE /toy/v2/clips/{task_id}",
        ),
        ({"auth_schemes": frozenset({"jwt2"})}, "its auth_schemes hold 'jwt2'"),
        ({"auth_schemes": frozenset()}, "its docs.security does not have one entry for each"),
        ({"docs": replace(Toy.docs, schemas={})}, "its docs have no schema 'ToyOops'"),
    ],
)
def test_facts_that_cannot_be_true_are_refused(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(IncompleteDialectError) as refused:
        registry_of(*DIALECTS.values(), stating(**facts))
    assert said in str(refused.value)


def test_two_dialects_share_no_endpoint_prefix_or_schema_by_mistake() -> None:
    """What collides is found when the table or the document is made, at the start."""
    twin = stating(name="twin")
    with pytest.raises(ValueError, match="two endpoints take POST /toy/v2/clips"):
        EndpointTable(registry_of(Toy(), twin))
    other = stating(
        name="other",
        endpoints=(Endpoint("POST", "/other", Operation.CREATE),),
        path_prefixes=("/other",),
        docs=replace(Toy.docs, schemas={**Toy.docs.schemas, "ToyWish": object_of(wish=TEXT)}),
    )
    with pytest.raises(ValueError, match="'ToyWish'"):
        data_document(EndpointTable(registry_of(Toy(), other)))


def test_a_submit_that_is_no_request_is_refused_by_its_own_class() -> None:
    with pytest.raises(Invalid, match="'prompt' is required"):
        ALL["toy"].submission(TABLE.match("POST", CLIPS, {}), Fields({}), "m")
