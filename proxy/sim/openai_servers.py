"""How self-hosted servers and gateways answer `/v1/videos`, also when they fail.

Written from the servers' own answers: vLLM-Omni 0.30, SGLang 0.5.23, LiteLLM 1.110 in front of
vLLM-Omni. `OpenAI` asks this module for everything in which they differ from OpenAI.

- vllm-omni: a failed job is a 4xx or 5xx with the whole job as its body; `seconds` repeats what
  was asked, `duration_s` and frames say what was made; DELETE ends any job, and the render with it.
- sglang: errors are `{"detail"}`, a failed job has no code; DELETE drops the record only, the
  render goes on; in S3 mode the job has `url` and `urls`, and its content path is a 400.
- litellm: ids of some 200 characters that pack the id behind them; a failed job is a 500 with the
  job as JSON inside the message; no DELETE.
"""

from __future__ import annotations

import base64
import json
from typing import Literal, get_args

from proxy.sim.reply import Reply, json_reply
from proxy.sim.tasks import Ids, Task

Server = Literal["openai", "vllm-omni", "sglang", "litellm"]
SERVERS: tuple[Server, ...] = get_args(Server)
_MODEL = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
_FPS = 16


def as_server(value: object) -> Server:
    """Raises ValueError for a server nobody simulates."""
    for server in SERVERS:
        if value == server:
            return server
    raise ValueError(f"'openai_server' is {value!r}; accepted: {', '.join(SERVERS)}.")


def new_id(server: Server, ids: Ids) -> str:
    if server == "vllm-omni":
        return f"video_gen_{ids.hexadecimal(32)}"
    if server == "sglang":
        return ids.uuid()
    if server == "litellm":
        told = f"litellm:custom_llm_provider:hosted_vllm;model_id:{ids.hexadecimal(64)}"
        inner = f"video_gen_{ids.hexadecimal(32)}"
        return "video_" + base64.b64encode(f"{told};video_id:{inner}".encode()).decode()
    return f"video_{ids.hexadecimal(48)}"


def video(server: Server, task: Task, plain: dict[str, object], url: str | None) -> Reply:
    """The answer to a submit or poll. `plain` is OpenAI's Video object, `url` the address of the
    file where the server keeps it elsewhere."""
    if server == "vllm-omni":
        return _vllm_omni(task, plain)
    if server == "sglang":
        return json_reply(200, _sglang_job(task, plain, url))
    if server == "litellm":
        return _litellm(task, plain)
    return json_reply(200, plain)


def _vllm_omni_job(task: Task, plain: dict[str, object]) -> dict[str, object]:
    seconds = float(str(task.request["seconds"]))
    is_done = task.state == "completed"
    failure = task.failure and {
        "code": task.failure.code if isinstance(task.failure.code, int) else 500,
        "message": task.failure.message,
    }
    return {
        **plain,
        "model": _MODEL,
        "quality": "default",
        "media_type": "video/mp4",
        "expires_at": None,
        "file_name": f"{task.id}.mp4" if is_done else None,
        "fps": float(_FPS),
        "num_frames": int(seconds * _FPS) if is_done else None,
        "duration_s": seconds if is_done else None,
        "stage_durations": {"dit": 1.0} if is_done else {},
        "error": failure,
    }


def _vllm_omni(task: Task, plain: dict[str, object]) -> Reply:
    job = _vllm_omni_job(task, plain)
    status = 200
    if task.failure is not None:
        code = task.failure.code
        status = code if isinstance(code, int) and 400 <= code <= 599 else 500
    return json_reply(status, job)


def _sglang_job(task: Task, plain: dict[str, object], url: str | None) -> dict[str, object]:
    job = {**plain, "quality": "standard", "url": url, "urls": None if url is None else [url]}
    job["file_path"] = None if url is not None else f"/srv/sglang/outputs/{task.id}.mp4"
    if task.failure is not None:
        job["error"] = {"message": f"Model generation failed. {task.failure.message}"}
    return job


def _litellm(task: Task, plain: dict[str, object]) -> Reply:
    if task.failure is None:
        usage = {"duration_seconds": float(str(task.request["seconds"]))}
        return json_reply(200, {**plain, "usage": usage})
    packed = task.id.removeprefix("video_")
    inner = base64.b64decode(packed).decode().rpartition("video_id:")[2]
    told = json.dumps({**_vllm_omni_job(task, plain), "id": inner})
    message = f"litellm.InternalServerError: InternalServerError: Hosted_vllmException - {told}"
    return error("litellm", 500, message, None, "500")


def error(server: Server, status: int, message: str, param: str | None, code: str | None) -> Reply:
    """An error in the server's own shape."""
    if server == "sglang":
        if status == 503:
            return json_reply(503, {"error": "Scheduler worker exited; restart the server."})
        return json_reply(status, {"detail": message})
    kind = "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "internal_server_error" if server == "litellm" else "server_error"
    told: dict[str, object] = {"message": message, "type": kind, "param": param, "code": code}
    if server == "vllm-omni":
        told["param"] = None if param is None else f"body.{param}"
        told["code"] = status
    return json_reply(status, {"error": told})


def unfinished(server: Server, task: Task) -> Reply | None:
    """The answer of a content path whose video is not there; None: as OpenAI's."""
    if server == "vllm-omni" and task.state == "failed":
        message = "Video generation failed. Check job status for error details."
        return error(server, 422, message, None, None)
    if server in ("vllm-omni", "sglang"):
        return error(server, 404, "Generation is still in-progress", None, None)
    return None


def in_cloud(url: str) -> Reply:
    """SGLang's content path in S3 mode."""
    message = f"Video has been uploaded to cloud storage. Please use the cloud URL: {url}"
    return json_reply(400, {"detail": message})
