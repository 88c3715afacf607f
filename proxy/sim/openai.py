"""The Videos API: OpenAI's, and what self-hosted servers make of it (`openai_servers`).

A model named `sora…` is checked as OpenAI's own service does (its enums of seconds and size);
any other model as vLLM-Omni does (`^[1-9]\\d*$`, any width and height).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from multidict import MultiMapping

from proxy.sim import openai_servers as servers
from proxy.sim.body import Upload
from proxy.sim.files import file_reply
from proxy.sim.links import Links
from proxy.sim.reply import Headers, Refusal, Reply, json_reply
from proxy.sim.service import Call, Route, Vendor
from proxy.sim.settings import Settings
from proxy.sim.tasks import Failure, Ids, Task, Tasks, Variant

KEYS = {"api_key": "sk-sim"}
MODELS = ("sora-2", "sora-2-pro", "wan2.2-t2v")
_SECONDS = ("4", "8", "12", "16", "20")
_SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
_PRO_SIZES = (*_SIZES, "1080x1920", "1920x1080")
_ANY_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}", re.ASCII)
_ANY_SECONDS = re.compile(r"[1-9]\d*", re.ASCII)
_VARIANTS: dict[str, Variant] = {
    "video": "video",
    "thumbnail": "thumbnail",
    "spritesheet": "spritesheet",
}
_MODERATED = "Your request was blocked by our moderation system."
_MAX_PROMPT = 32_000
_MAX_IMAGE_BYTES = 20 * 1024 * 1024


class OpenAI:
    name = "openai"

    def __init__(self, settings: Settings, tasks: Tasks, links: Links) -> None:
        self._settings = settings
        self._links = links
        # `tune` may change these at any time; they hold for what is answered then.
        self.server: servers.Server = "openai"
        self.cloud = self.numeric_ids = False
        self.tune(settings.services.get(self.name, {}))
        self._dropped: set[str] = set()  # records that DELETE dropped while the render goes on
        self._tasks = tasks
        self._ids = Ids(settings.seed, self.name)
        keys = [account.keys_of(self.name, KEYS) for account in settings.accounts]
        self._keys = {named["api_key"]: n for n, named in enumerate(keys)}

    def tune(self, settings: Mapping[str, object]) -> None:
        server = servers.as_server(settings.get("server", self.server))
        cloud = settings.get("cloud", self.cloud)
        numeric_ids = settings.get("numeric_ids", self.numeric_ids)
        if not isinstance(cloud, bool) or not isinstance(numeric_ids, bool):
            raise ValueError("'openai_cloud' and 'openai_numeric_ids' must be true or false.")
        self.server, self.cloud, self.numeric_ids = server, cloud, numeric_ids

    def routes(self) -> Sequence[Route]:
        return (
            Route("POST", "/v1/videos", "submit", self._create),
            Route("GET", "/v1/videos", "list", self._list),
            Route("POST", "/v1/videos/edits", "edit", self._edit),
            Route("POST", "/v1/videos/extensions", "extend", self._extend),
            Route("GET", "/v1/videos/{id}", "poll", self._get),
            Route("DELETE", "/v1/videos/{id}", "delete", self._delete),
            Route("GET", "/v1/videos/{id}/content", "content", self._content),
            Route("HEAD", "/v1/videos/{id}/content", "content", self._content),
            Route("POST", "/v1/videos/{id}/remix", "remix", self._remix),
            Route("GET", "/v1/models", "models", self._models),
        )

    def operation(self, named: str, query: MultiMapping[str]) -> str:
        return named

    def unknown(self, call: Call) -> Reply:
        path = call.target.partition("?")[0]
        return self._error(404, f"Invalid URL ({call.method} {path})", None, None)

    def error(self, status: int, code: int | str | None, message: str | None) -> Reply:
        usual = {429: "rate_limit_exceeded", 401: "invalid_api_key", 500: "server_error"}
        text = message or {429: "Rate limit reached.", 503: "The server is overloaded."}.get(
            status, "The server had an error while processing your request."
        )
        return self._error(status, text, None, usual.get(status) if code is None else str(code))

    def failure(self, code: int | str | None) -> Failure:
        if code == "moderation_blocked":
            return Failure(code, _MODERATED)
        return Failure(code or "video_generation_failed", "The video could not be generated.")

    # -- endpoints ---------------------------------------------------------------------------

    def _create(self, call: Call) -> Reply:
        account = self._account(call)
        fields = self._fields(call)
        prompt = self._prompt(fields)
        model = self._text(fields, "model") or "sora-2"
        seconds = self._seconds(fields, model, "4")
        size = self._size(fields, model)
        self._check_reference(fields.get("input_reference"))
        return self._accept(call, account, prompt, model, seconds, size)

    def _remix(self, call: Call) -> Reply:
        source = self._finished(call, call.path["id"])
        prompt = self._prompt(self._fields(call))
        return self._derive(call, source, prompt, str(source.request["seconds"]), remix=True)

    def _edit(self, call: Call) -> Reply:
        return self._from_video(call, extends=False)

    def _extend(self, call: Call) -> Reply:
        return self._from_video(call, extends=True)

    def _from_video(self, call: Call, *, extends: bool) -> Reply:
        account = self._account(call)
        fields = self._fields(call)
        prompt = self._prompt(fields)
        seconds = self._seconds(fields, "sora-2", "") if extends else ""
        if extends and not seconds:
            raise self._invalid("Missing required parameter: 'seconds'.", "seconds")
        video = fields.get("video")
        if isinstance(video, Upload):
            return self._accept(call, account, prompt, "sora-2", seconds or "4", _SIZES[0])
        if not isinstance(video, dict) or not isinstance(video.get("id"), str):
            raise self._invalid("'video' must be a file or an object with 'id'.", "video")
        source = self._finished(call, video["id"])
        return self._derive(call, source, prompt, seconds or str(source.request["seconds"]))

    def _get(self, call: Call) -> Reply:
        return self._answer(self._owned(call, call.path["id"]))

    def _list(self, call: Call) -> Reply:
        account = self._account(call)
        order = call.query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise self._invalid("'order' must be one of 'asc', 'desc'.", "order")
        limit = call.query.get("limit", "20")
        if not re.fullmatch(r"\d{1,3}", limit, re.ASCII) or int(limit) > 100:
            raise self._invalid("'limit' must be an integer from 0 to 100.", "limit")
        tasks = self._tasks.of(self.name, account)
        if order == "desc":
            tasks.reverse()
        after = call.query.get("after")
        if after is not None:
            ids = [task.id for task in tasks]
            if after not in ids:
                raise self._not_found(after)
            tasks = tasks[ids.index(after) + 1 :]
        page = tasks[: int(limit)]
        return self._ok(
            {
                "object": "list",
                "data": [self._video(task) for task in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": len(tasks) > len(page),
            }
        )

    def _delete(self, call: Call) -> Reply:
        if self.server == "litellm":
            return servers.error(self.server, 405, "Method Not Allowed", None, None)
        task = self._owned(call, call.path["id"])
        if self.server == "sglang":
            self._dropped.add(task.id)
            return self._ok({**self._video(task), "status": "deleted"})
        if self.server == "vllm-omni":
            self._tasks.forget(task.id)
            return self._ok({"id": task.id, "deleted": True, "object": "video.deleted"})
        if task.is_open:
            raise self._invalid("Only completed or failed videos can be deleted.", None)
        self._tasks.forget(task.id)
        return self._ok({"id": task.id, "object": "video.deleted", "deleted": True})

    def _content(self, call: Call) -> Reply:
        task = self._owned(call, call.path["id"])
        variant = _VARIANTS.get(call.query.get("variant", "video"))
        if variant is None:
            raise self._invalid(f"'variant' must be one of {', '.join(_VARIANTS)}.", "variant")
        if task.state != "completed":
            unfinished = servers.unfinished(self.server, task)
            if unfinished is not None:
                return unfinished
            raise Refusal(
                self._error(
                    404,
                    "Video is not ready yet, use GET /v1/videos/{video_id} to check status.",
                    None,
                    None,
                )
            )
        expires = self._expires_at(task)
        if expires is not None and expires <= self._settings.clock():
            raise Refusal(self._error(404, "Video has expired.", None, "video_expired"))
        url = self._cloud_url(task)
        if url is not None:
            return servers.in_cloud(url)
        clip = self._tasks.clip(task, task.results[0], variant)
        return file_reply(clip, call.headers, call.plan)

    def _models(self, call: Call) -> Reply:
        self._account(call)
        data = [
            {"id": model, "object": "model", "created": 1759190400, "owned_by": "system"}
            for model in MODELS
        ]
        return self._ok({"object": "list", "data": data})

    # -- making a task -----------------------------------------------------------------------

    def _derive(
        self, call: Call, source: Task, prompt: str, seconds: str, *, remix: bool = False
    ) -> Reply:
        model, size = str(source.request["model"]), str(source.request["size"])
        remixed = source.id if remix else None
        return self._accept(call, source.account, prompt, model, seconds, size, remixed)

    def _accept(
        self,
        call: Call,
        account: int,
        prompt: str,
        model: str,
        seconds: str,
        size: str,
        remixed_from: str | None = None,
    ) -> Reply:
        if "forbidden-prompt" in prompt:
            raise Refusal(self._error(400, _MODERATED, None, "moderation_blocked"))
        limit = self._settings.max_in_flight
        if limit is not None and self._tasks.in_flight(self.name, account) >= limit:
            raise Refusal(self.error(429, None, "Too many videos are being generated."))
        task_id = servers.new_id(self.server, self._ids)
        if self.numeric_ids:
            task_id = self._ids.digits(18)
        task = self._tasks.add(
            task_id=task_id,
            service=self.name,
            endpoint="videos",
            account=account,
            request={
                "prompt": prompt,
                "model": model,
                "seconds": seconds,
                "size": size,
                "remixed_from_video_id": remixed_from,
            },
            prompt=prompt,
            result_id=lambda: task_id,
            doom=self.failure(None),
        )
        call.entry.task_id = task.id
        return self._answer(task)

    def _answer(self, task: Task) -> Reply:
        reply = servers.video(self.server, task, self._video(task), self._cloud_url(task))
        return replace(reply, headers=(*reply.headers, *self._headers()))

    def _cloud_url(self, task: Task) -> str | None:
        if not self.cloud or task.state != "completed":
            return None
        return self._links.make(task.results[0].id)

    def _video(self, task: Task) -> dict[str, object]:
        """The Video object: all 13 keys, always."""
        failure = task.failure and {"code": task.failure.code, "message": task.failure.message}
        done = task.state == "completed" and task.completed_s is not None
        return {
            "id": int(task.id) if task.id.isdigit() else task.id,
            "object": "video",
            "model": task.request["model"],
            "status": task.state,
            "progress": self._tasks.progress(task),
            "created_at": int(task.created_s),
            "completed_at": int(task.completed_s or 0) if done else None,
            "expires_at": self._expires_at(task),
            "prompt": task.request["prompt"],
            "size": task.request["size"],
            "seconds": task.request["seconds"],
            "remixed_from_video_id": task.request["remixed_from_video_id"],
            "error": failure,
        }

    def _expires_at(self, task: Task) -> int | None:
        if task.state != "completed" or task.completed_s is None:
            return None
        return int(task.completed_s) + self._settings.link_ttl_s

    # -- who asks, and for what --------------------------------------------------------------

    def _account(self, call: Call) -> int:
        scheme, _, key = call.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Refusal(self._error(401, "You didn't provide an API key.", None, None))
        account = self._keys.get(key.strip())
        if account is None:
            raise Refusal(self._error(401, "Incorrect API key provided.", None, "invalid_api_key"))
        call.entry.account = account
        return account

    def _owned(self, call: Call, task_id: str) -> Task:
        account = self._account(call)
        call.entry.task_id = task_id
        task = self._tasks.get(task_id)
        is_theirs = task is not None and task.service == self.name and task.account == account
        if task is None or not is_theirs or task_id in self._dropped:
            raise self._not_found(task_id)
        return task

    def _finished(self, call: Call, task_id: str) -> Task:
        task = self._owned(call, task_id)
        if task.state != "completed":
            raise self._invalid(f"Video '{task_id}' is not completed.", None)
        return task

    # -- fields ------------------------------------------------------------------------------

    def _fields(self, call: Call) -> dict[str, object]:
        if call.body.problem is not None:
            raise self._invalid(call.body.problem, None)
        return call.body.fields

    def _text(self, fields: dict[str, object], name: str) -> str | None:
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self._invalid(f"Invalid type for '{name}': expected a string.", name)
        return value

    def _prompt(self, fields: dict[str, object]) -> str:
        prompt = self._text(fields, "prompt")
        if not prompt:
            raise self._invalid("Missing required parameter: 'prompt'.", "prompt")
        if len(prompt) > _MAX_PROMPT:
            raise self._invalid(f"'prompt' is longer than {_MAX_PROMPT} characters.", "prompt")
        return prompt

    def _seconds(self, fields: dict[str, object], model: str, default: str) -> str:
        value = fields.get("seconds")
        if value is None:
            value = default
        if not model.startswith("sora"):
            text = str(value)
            if isinstance(value, bool) or not _ANY_SECONDS.fullmatch(text):
                raise self._invalid("'seconds' must be a positive whole number.", "seconds")
            return text
        if value != default and value not in _SECONDS:
            accepted = ", ".join(f"'{s}'" for s in _SECONDS)
            raise self._invalid(
                f"Invalid value for 'seconds': expected one of {accepted}.", "seconds"
            )
        return value

    def _size(self, fields: dict[str, object], model: str) -> str:
        size = self._text(fields, "size") or _SIZES[0]
        if not model.startswith("sora"):
            if not _ANY_SIZE.fullmatch(size):
                raise self._invalid("'size' must be of the form WIDTHxHEIGHT.", "size")
            return size
        accepted = _PRO_SIZES if model.startswith("sora-2-pro") else _SIZES
        if size not in accepted:
            told = ", ".join(f"'{s}'" for s in accepted)
            raise self._invalid(f"Invalid value for 'size': expected one of {told}.", "size")
        return size

    def _check_reference(self, value: object) -> None:
        """A file, or an object with exactly one of `image_url` and `file_id`."""
        name = "input_reference"
        if value is None:
            return
        if isinstance(value, Upload):
            if value.size == 0 or value.size > _MAX_IMAGE_BYTES:
                raise self._invalid(f"'{name}' must have 1 byte to 20 MiB.", name)
            return
        if not isinstance(value, dict):
            raise self._invalid(f"'{name}' must be a file or an object.", name)
        if len(value) != 1 or not value.keys() <= {"image_url", "file_id"}:
            raise self._invalid(
                f"'{name}' must have exactly one of 'image_url' and 'file_id'.", name
            )
        url = value.get("image_url", "")
        if not isinstance(url, str) or (url and not url.startswith(("http", "data:image/"))):
            raise self._invalid(f"'{name}.image_url' must be a URL or a data URL.", name)

    # -- replies -----------------------------------------------------------------------------

    def _ok(self, value: object) -> Reply:
        return json_reply(200, value, self._headers())

    def _headers(self) -> Headers:
        poll_after_ms = 10 if self._tasks.manual else max(10, int(1000 / self._tasks.speed))
        return (
            ("x-request-id", f"req_{self._ids.hexadecimal(32)}"),
            ("openai-version", "2020-10-01"),
            ("openai-poll-after-ms", str(poll_after_ms)),
        )

    def _error(self, status: int, message: str, param: str | None, code: str | None) -> Reply:
        reply = servers.error(self.server, status, message, param, code)
        request_id = ("x-request-id", f"req_{self._ids.hexadecimal(32)}")
        return replace(reply, headers=(*reply.headers, request_id))

    def _invalid(self, message: str, param: str | None) -> Refusal:
        return Refusal(self._error(400, message, param, None))

    def _not_found(self, task_id: str) -> Refusal:
        own = self.server in ("vllm-omni", "sglang")
        message = "Video not found" if own else f"Video with id '{task_id}' not found."
        return Refusal(self._error(404, message, None, None))


# `server` is the software it is: openai, vllm-omni, sglang or litellm. With `cloud` it keeps files
# at the file host, and its jobs name their address (SGLang with S3). `numeric_ids`: jobs have
# whole numbers as ids.
VENDOR = Vendor(
    "openai",
    lambda world: OpenAI(world.settings, world.tasks, world.links),
    KEYS,
    {"server": "openai", "cloud": False, "numeric_ids": False},
    path="/v1",
)
