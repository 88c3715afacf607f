"""Accepted is accepted, failed is failed: what a provider's answer means, whoever wrote it.

The answers of vLLM-Omni 0.30, SGLang 0.5.23 and LiteLLM 1.110 are the servers' own, recorded.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.http.outbound import Draft
from proxy.model import HEALTHY, Credential, Kind, Operation, Status, Task, TaskState, Upstream
from proxy.providers import PROVIDERS, values
from proxy.providers.outcomes import Accepted, Outcome, Refused, Transient, Unknown
from proxy.tasks.breaker import Witness, after_refusal

NO_HEADERS: CIMultiDict[str] = CIMultiDict()
OURS = "video_gen_3251cec7560d442288908f9269655660"


def upstream(provider: str = "openai", **options: object) -> Upstream:
    kind = PROVIDERS[provider].options
    base_url = "http://10.0.0.7:8000/v1"
    key = (Credential("k"),)
    return Upstream("up", provider, base_url, key, options=kind.model_validate(options))


def task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "id": "video_ours",
        "owner": "o",
        "token_id": "t",
        "dialect": "openai",
        "operation": Operation.CREATE,
        "kind": Kind.TEXT,
        "model": "m",
        "created_ms": 1796077235000,
        "updated_ms": 1796077235000,
        "upstream_id": OURS,
    }
    return Task(**{**known, **fields})


def said(body: object) -> bytes:
    return body if isinstance(body, bytes) else orjson.dumps(body)


def submitted(
    body: object, status: int = 200, provider: str = "openai", **options: object
) -> Outcome:
    there = upstream(provider, **options)
    return PROVIDERS[provider].outcome(status, NO_HEADERS, said(body), there)


def polled(
    body: object, status: int = 200, provider: str = "openai", **fields: Any
) -> TaskState | Transient:
    return PROVIDERS[provider].state(task(**fields), status, NO_HEADERS, said(body))


# ---------------------------------------------------------------- accepted is accepted


@pytest.mark.parametrize(
    ("body", "upstream_id"),
    [
        ({"id": "x"}, "x"),
        ({"id": 7}, "7"),
        (b'{"id": 123456789012345678901234567890}', "123456789012345678901234567890"),
        ({"task_id": "x"}, "x"),
        ({"taskId": "x"}, "x"),
        ({"video_id": "x"}, "x"),
        ({"id": "", "task_id": 9}, "9"),
        ({"data": {"id": "x"}}, "x"),
        ({"data": {"task_id": "x"}}, "x"),
        ({"data": [{"id": "x"}]}, "x"),
        ({"data": {"task": {"id": "x", "status": "queued"}}}, "x"),
        ({"result": {"task_id": "x"}}, "x"),
        ({"output": {"task_id": "x", "task_status": "PENDING"}, "request_id": "r"}, "x"),
        ({"code": "success", "data": "x"}, "x"),
        ({"code": 200, "status": "success", "data": {"id": "x", "state": "waiting"}}, "x"),
        ({"request_id": "x"}, "x"),
        ({"request_id": "r", "id": "x"}, "x"),
        ({"id": "x", "error": {"message": "odd"}}, "x"),
        (b'\xef\xbb\xbf{"id": "x"}', "x"),
        (b'{"id": "x", "progress": NaN}', "x"),
        (b'{"id": "x", "note": "\\ud800"}', "x"),
        ({"id": "x" * 512}, "x" * 512),
        ({"id": "x", "status": "dreaming", "seconds": [], "size": 7, "progress": {}}, "x"),
    ],
)
def test_a_success_that_names_a_job_is_accepted(body: object, upstream_id: str) -> None:
    outcome = submitted(body)
    assert isinstance(outcome, Accepted)
    assert outcome.upstream_id == upstream_id


@pytest.mark.parametrize("status", [400, 402, 403, 409, 422, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    "body",
    [
        {"id": "x", "object": "video", "status": "queued"},
        {"id": "x", "object": "video", "status": "failed", "error": {"message": "no"}},
        {"id": "x", "status": "in_progress"},
        {"data": {"task_id": "x", "task_status": "submitted"}},
    ],
)
def test_a_job_that_is_named_was_taken_whatever_the_status(status: int, body: object) -> None:
    outcome = submitted(body, status)
    assert isinstance(outcome, Accepted)
    assert outcome.upstream_id == "x"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"id": "req-1", "error": {"message": "no"}}),
        (400, {"id": "req-1", "status": "error", "message": "no"}),
        (400, {"id": "req-1", "status": "failed", "message": "no"}),
        (400, {"request_id": "req-1", "status": 400}),
    ],
)
def test_the_id_of_a_refusal_is_no_job(status: int, body: object) -> None:
    assert isinstance(submitted(body, status), Refused)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in</html>",
        b"",
        {"error": {"message": "odd"}},
        {"error": {"message": "oops", "code": "server_error"}},
        {"error": {"message": "oops", "code": 500}},
        {"error": "odd", "request_id": "r"},
        {"code": 1301, "request_id": "r", "message": "no"},
        {"status": "queued"},
        {"id": None, "data": None},
    ],
)
def test_a_success_without_a_job_is_unknown(body: object) -> None:
    assert isinstance(submitted(body), Unknown)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "moderation_blocked", "message": "no"},
        {"code": "insufficient_quota", "message": "no"},
        {"code": "invalid_api_key", "message": "no"},
        {"type": "invalid_request_error", "message": "no"},
        {"code": "rate_limit_exceeded", "message": "no"},
        {"code": "model_not_found", "message": "no"},
        {"code": "server_overloaded", "message": "no"},
        {"code": 400, "message": "no"},
        {"code": "429", "message": "no"},
    ],
)
def test_a_success_with_a_known_refusal_is_refused(error: object) -> None:
    assert isinstance(submitted({"error": error}), Refused)


@pytest.mark.parametrize("provider", ["kling", "jimeng"])
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, {"code": "CODE", "data": {"task_id": "7"}}, Accepted),
        (200, {"code": "CODE", "data": {"task_id": 7}}, Accepted),
        (200, {"code": "CODE", "data": {"id": "7"}}, Accepted),
        (200, {"code": "CODE", "data": {"task": {"id": "7"}}}, Accepted),
        (200, {"code": "CODE", "result": {"task_id": "7"}}, Accepted),
        (200, {"task_id": "7"}, Accepted),
        (200, {"data": {"task_id": "7"}}, Accepted),
        (200, {"code": 7777, "data": {"task_id": "7"}}, Accepted),
        (500, {"code": "CODE", "data": {"task_id": "7"}}, Accepted),
        (400, {"code": "CODE", "data": {"task_id": "7"}}, Accepted),
        (200, {"code": "CODE", "request_id": "7"}, Unknown),
        (200, {"code": "CODE", "data": {"task_id": ""}}, Unknown),
        (200, {"code": "CODE", "data": {"task_id": "x" * 513}}, Unknown),
        (200, b"<html>Sign in</html>", Unknown),
        (500, {"code": 7777, "request_id": "7"}, Unknown),
        (503, b"<html>", Unknown),
    ],
)
def test_an_envelope_that_names_a_task_is_accepted(
    provider: str, status: int, body: object, kind: type[Outcome]
) -> None:
    fine = {"kling": 0, "jimeng": 10000}[provider]
    if isinstance(body, dict) and body.get("code") == "CODE":
        body = {**body, "code": fine}
    outcome = submitted(body, status, provider)
    assert isinstance(outcome, kind)
    if isinstance(outcome, Accepted):
        assert outcome.upstream_id == "7"


def test_jimeng_is_read_out_of_the_universal_apis_envelope() -> None:
    meta = {"RequestId": "r"}
    body = {"ResponseMetadata": meta, "Result": {"code": 10000, "data": {"task_id": "7"}}}
    assert submitted(body, provider="jimeng") == Accepted("7")
    done = {"status": "done", "video_url": "https://v.example/x.mp4"}
    body = {"ResponseMetadata": meta, "Result": {"code": 10000, "data": done}}
    state = polled(body, provider="jimeng")
    assert isinstance(state, TaskState)
    assert state.status is Status.COMPLETED


# ---------------------------------------------------------------- refused or unknown


@pytest.mark.parametrize("server", ["vllm-omni", "sglang"])
def test_a_dead_worker_of_an_own_server_took_nothing(server: str) -> None:
    body = {"error": "Scheduler worker exited; restart the server."}
    outcome = submitted(body, 503, server=server)
    assert isinstance(outcome, Refused)
    assert (outcome.elsewhere, outcome.cooldown) == (True, "back_off")
    assert isinstance(submitted(body, 503, server="openai"), Unknown)
    assert isinstance(submitted(body, 500, server=server), Unknown)


def test_a_server_with_several_api_processes_is_left_for_another() -> None:
    assert isinstance(refused := submitted({}, 409, server="vllm-omni"), Refused)
    assert refused.elsewhere


def test_a_model_that_the_server_does_not_serve_is_not_the_clients_fault() -> None:
    words = "Model mismatch: request specifies 'a' but server is running 'Wan-AI/Wan2.2'."
    body = {"error": {"message": words, "type": "Bad Request", "param": None, "code": 400}}
    outcome = submitted(body, 400, server="vllm-omni")
    assert isinstance(outcome, Refused)
    assert outcome.elsewhere
    assert outcome.error.status == 502
    assert "Wan" not in outcome.error.message


@pytest.mark.parametrize("provider", ["openai", "kling", "jimeng"])
def test_the_operator_says_which_statuses_took_nothing(provider: str) -> None:
    for status in (500, 503):
        assert isinstance(submitted(b"<html>", status, provider), Unknown)
        outcome = submitted(b"<html>", status, provider, refused_statuses=[500, 503])
        assert isinstance(outcome, Refused)
        assert (outcome.elsewhere, outcome.cooldown) == (True, "none")
    assert isinstance(submitted(b"", 502, provider, refused_statuses=[500, 503]), Unknown)
    named = {"id": "x", "object": "video", "data": {"task_id": "x", "status": "queued"}}
    assert isinstance(submitted(named, 503, provider, refused_statuses=[503]), Accepted)


@pytest.mark.parametrize("statuses", [[200], [302], [600], ["often"]])
def test_only_errors_can_be_listed_as_refusals(statuses: list[object]) -> None:
    for provider in PROVIDERS:
        with pytest.raises(ValueError, match="refused_statuses"):
            upstream(provider, refused_statuses=statuses)


@pytest.mark.parametrize("provider", ["openai", "kling", "jimeng"])
def test_a_403_that_names_no_cause_is_no_verdict_on_the_account(provider: str) -> None:
    """A firewall in front of the upstream that dislikes one prompt must not stop all others."""
    for body in (b"<html>Forbidden</html>", b"", {"error": {"message": "no"}}):
        outcome = submitted(body, 403, provider)
        assert isinstance(outcome, Refused)
        assert (outcome.elsewhere, outcome.doubtful) == (True, True)
        one = after_refusal(HEALTHY, outcome, 0, witness=Witness("a", is_alone=False))
        assert one.state == "well", "a second client has to meet it"
    assert isinstance(refused := submitted(b"", 401, provider), Refused)
    assert refused.cooldown == "take_out"


@pytest.mark.parametrize("provider", ["openai", "kling", "jimeng"])
def test_no_host_or_key_of_any_provider_reaches_a_client(provider: str) -> None:
    leak = "quota of sk-abcdef1234 at redis.internal:6379 (10.0.0.7), see /srv/models/wan"
    bodies: list[tuple[int, object]] = [
        (400, {"error": {"message": leak}, "code": 1201, "message": leak}),
        (400, {"error": {"message": leak, "code": "contentfilter"}, "code": 1301}),
        (400, {"code": 50412, "message": leak}),
        (422, {"detail": leak, "message": leak}),
    ]  # fmt: skip
    shown = []
    for status, body in bodies:
        outcome = submitted(body, status, provider)
        assert isinstance(outcome, Refused)
        shown.append(outcome.error.message)
    failures: list[object] = [
        {"id": OURS, "status": "failed", "error": {"message": leak}},
        {"code": 0, "data": {"task_id": OURS, "task_status": "failed", "task_status_msg": leak}},
        {"code": 50412, "message": leak, "data": None},
        {"code": 10000, "data": {"status": "failed", "message": leak, "note": leak}},
    ]
    for body in failures:
        state = polled(body, provider=provider)
        if isinstance(state, TaskState):
            shown += [] if state.error is None else [state.error.message]
            shown.append(orjson.dumps(dict(state.native)).decode())
    assert len(shown) > len(bodies)
    for word in ("sk-", "redis", "6379", "10.0.0.7", "/srv"):
        assert not [line for line in shown if word in line]


# ---------------------------------------------------------------- failed is failed

FAILED = {
    "model": "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "id": OURS,
    "object": "video",
    "status": "failed",
    "seconds": "4",
    "completed_at": 1796077254,
    "error": {"code": 500, "message": "CUDA out of memory. Tried to allocate 2.00 GiB"},
}


@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 422, 429, 500, 502, 503])
def test_a_failed_job_counts_at_any_status(status: int) -> None:
    state = polled(FAILED, status)
    assert isinstance(state, TaskState)
    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.message == "CUDA out of memory. Tried to allocate 2.00 GiB"


def test_a_guardrail_is_moderation() -> None:
    error = {"code": 400, "message": "Guardrail blocked prompt: policy violation"}
    state = polled({**FAILED, "error": error}, 400)
    assert isinstance(state, TaskState)
    assert state.error is not None
    assert state.error.code == "moderation_blocked"


def test_a_failure_without_the_word_video_counts_for_our_id_only() -> None:
    job = {"id": OURS, "status": "failed", "error": {"message": "no"}}
    assert isinstance(polled(job, 500), TaskState)
    assert isinstance(polled({**job, "id": "another"}, 500), Transient)
    assert isinstance(polled({"status": "error", "message": "no"}, 500), Transient)
    assert isinstance(polled({**job, "status": "in_progress"}, 500), Transient)


def litellm(job: object) -> dict[str, object]:
    told = orjson.dumps(job).decode()
    message = f"litellm.InternalServerError: InternalServerError: Hosted_vllmException - {told}"
    error = {"message": message, "type": "internal_server_error", "param": None, "code": "500"}
    return {"error": error}


def test_a_failed_job_is_read_out_of_litellms_words() -> None:
    told = f"litellm:custom_llm_provider:hosted_vllm;model_id:wan;video_id:{OURS}"
    wrapped = "video_" + base64.b64encode(told.encode()).decode()
    state = polled(litellm(FAILED), 500, upstream_id=wrapped)
    assert isinstance(state, TaskState)
    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.message.startswith("CUDA out of memory")


@pytest.mark.parametrize(
    "job",
    [
        {"object": "video", "status": "failed"},
        {"id": "another", "object": "video", "status": "failed"},
        {"id": OURS, "object": "video", "status": "completed"},
        {"id": OURS, "object": "video", "status": "queued"},
    ],
)
def test_words_of_another_job_in_an_error_end_nothing(job: object) -> None:
    """An error may repeat a prompt, and anybody can write a failed job into a prompt."""
    assert isinstance(polled(litellm(job), 500), Transient)


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_an_end_in_an_envelope_counts_at_any_status(status: int) -> None:
    data = {"task_id": OURS, "task_status": "failed", "task_status_msg": "render node lost"}
    for code in (0, 5000):
        state = polled({"code": code, "data": data}, status, "kling")
        assert isinstance(state, TaskState)
        assert state.status is Status.FAILED
    url = "https://v.example/x.mp4"
    state = polled({"code": 10000, "data": {"status": "done", "video_url": url}}, status, "jimeng")
    assert isinstance(state, TaskState)
    assert state.results[0].url == url


@pytest.mark.parametrize(
    ("provider", "status", "body", "kind"),
    [
        ("openai", 404, {"detail": "Video not found"}, "not_found"),
        ("openai", 200, {"id": OURS, "status": "not_found"}, "not_found"),
        ("openai", 410, b"", "not_found"),
        ("openai", 429, b"", "rate_limited"),
        ("openai", 403, b"", "credential_refused"),
        ("openai", 500, b"", "http_5xx"),
        ("openai", 409, b"", "http_4xx"),
        ("openai", 302, b"", "http_3xx"),
        ("openai", 200, b"<html>Sign in</html>", "unreadable"),
        ("kling", 404, {"code": 1203}, "not_found"),
        ("kling", 200, {"code": 1203}, "not_found"),
        ("kling", 200, {"code": 1302}, "rate_limited"),
        ("kling", 429, {"code": 1102}, "credential_refused"),
        ("kling", 200, {"code": 5000}, "http_5xx"),
        ("kling", 200, {"code": 0, "data": {"task_status": "succeed"}}, "unreadable"),
        ("jimeng", 200, {"code": 50430}, "rate_limited"),
        ("jimeng", 400, {"code": 50400}, "credential_refused"),
        ("jimeng", 200, {"code": 50500}, "http_5xx"),
        ("jimeng", 200, {"code": 10000, "data": {"status": "done"}}, "unreadable"),
    ],
)
def test_silence_has_a_kind(provider: str, status: int, body: object, kind: str) -> None:
    state = polled(body, status, provider)
    assert isinstance(state, Transient)
    assert state.kind == kind


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": OURS, "status": "processing"}, Status.IN_PROGRESS),
        ({"status": "success", "data": {"status": "processing"}}, Status.IN_PROGRESS),
        ({"status": "success", "data": {"id": OURS, "state": "FAILURE"}}, Status.FAILED),
        (
            {"task_id": OURS, "status": "queued", "data": {"id": "theirs", "status": "failed"}},
            Status.QUEUED,
        ),
        (
            {"id": OURS, "status": "success", "data": {"id": OURS, "status": "running"}},
            Status.IN_PROGRESS,
        ),
        ({"code": 0, "data": {"task": {"id": OURS, "status": "done"}}}, Status.COMPLETED),
    ],
)
def test_the_state_is_the_jobs_not_its_envelopes(body: object, status: Status) -> None:
    state = polled(body)
    assert isinstance(state, TaskState)
    assert state.status is status


# ---------------------------------------------------------------- what was made


@pytest.mark.parametrize(
    ("made", "seconds"),
    [
        ({"seconds": "4", "fps": 16.0, "num_frames": 48, "duration_s": 3.0}, 3.0),
        ({"seconds": "1", "fps": 24, "num_frames": 2400, "duration_s": None}, 100.0),
        ({"seconds": "4", "fps": 24.0, "num_frames": None, "duration_s": None}, 4.0),
        ({"seconds": "2", "usage": {"duration_seconds": 2.5}}, 2.5),
        ({"seconds": "0"}, None),
        ({"seconds": "4", "fps": 1e-300, "num_frames": 1e8}, 4.0),
    ],
)
def test_the_length_is_what_was_made_not_what_was_asked(
    made: dict[str, object], seconds: float | None
) -> None:
    state = polled({"id": OURS, "object": "video", "status": "completed", **made})
    assert isinstance(state, TaskState)
    assert state.seconds == seconds


def test_a_video_in_cloud_storage_is_had_from_there() -> None:
    """SGLang with S3: its own content path is a 400 then."""
    url = "http://minio.example/bkt/362a.mp4"
    job = {"id": OURS, "object": "video", "status": "completed", "url": url, "urls": [url]}
    state = polled({**job, "file_path": None})
    assert isinstance(state, TaskState)
    assert [result.url for result in state.results] == [url]
    done = task(results=state.results)
    assert PROVIDERS["openai"].content(done, upstream(), "video", 0) == url


@pytest.mark.parametrize(
    "url",
    [
        f"https://gateway.example/v1/videos/{OURS}/content?exp=1&sig=x",
        "http://10.0.0.7:8000/files/x.mp4",
    ],
)
def test_an_address_of_the_upstream_itself_is_asked_for_with_our_key(url: str) -> None:
    state = polled({"id": OURS, "object": "video", "status": "completed", "url": url})
    assert isinstance(state, TaskState)
    draft = PROVIDERS["openai"].content(task(results=state.results), upstream(), "video", 0)
    assert isinstance(draft, Draft)
    assert draft.path == f"/videos/{OURS}/content"


def test_a_clients_own_metadata_names_no_result() -> None:
    """It is repeated in the job, and would let a client have any file of the web delivered."""
    job = {"id": OURS, "object": "video", "status": "completed"}
    state = polled({**job, "metadata": {"url": "https://elsewhere.example/x.mp4"}})
    assert isinstance(state, TaskState)
    assert [result.url for result in state.results] == [None]


# ---------------------------------------------------------------- any answer at all

NAMES = (
    *("id", "task_id", "data", "result", "output", "task", "object", "status", "state", "code"),
    *("task_status", "error", "detail", "message", "task_result", "videos", "url", "video_url"),
    *("seconds", "duration_s", "num_frames", "fps", "expires_at", "updated_at", "progress"),
    *("size", "usage", "ResponseMetadata", "Result", "request_id"),
)
WORDS = st.sampled_from(
    ["video", "failed", "completed", "done", "succeed", OURS, "https://a.example/x", "\x00", "50%"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 10000, 1203, 50412, 10**400])
TREES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([100, 200, 204, 302, 400, 401, 403, 404, 409, 429, 500, 503]),
    st.dictionaries(st.sampled_from(NAMES), TREES, max_size=6) | TREES,
    st.binary(max_size=20),
    st.sampled_from(["none", "front", "back"]),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "Date"]), st.text()),
)
def test_no_answer_makes_any_adapter_raise(
    status: int, tree: object, junk: bytes, where: str, headers: dict[str, str]
) -> None:
    # The standard library writes what orjson refuses: NaN, surrogates, huge numbers

    body = json.dumps(tree).encode("utf-8", "surrogatepass")
    body = {"none": body, "front": junk + body, "back": body + junk}[where]
    for name, provider in PROVIDERS.items():
        outcome = provider.outcome(status, headers, body, upstream(name))
        assert isinstance(outcome, Accepted | Refused | Unknown)
        if isinstance(outcome, Accepted):
            assert 0 < len(outcome.upstream_id) <= values.ID_MAX_CHARS
            orjson.dumps(outcome)
        state = provider.state(task(), status, headers, body)
        assert isinstance(state, TaskState | Transient)
        assert len(orjson.dumps(state)) < 26 * 1024
        assert isinstance(provider.found(status, headers, body), Accepted | Refused | Transient)
