// Make a video as a client would, with a client's key, and watch it come.

import { ring } from "../chart.js";
import { now } from "../clock.js";
import { field, input, select } from "../controls.js";
import { h } from "../dom.js";
import * as format from "../format.js";
import { icon } from "../icons.js";
import { watch } from "../live.js";
import { badge, button, card, copyButton, describe, link, pageHead, stateOf } from "../parts.js";
import { player } from "../player.js";
import { announce } from "../says.js";
import { t } from "../text.js";
import { timeLine } from "./task.js";

const SIZES = ["", "1280x720", "720x1280", "1792x1024", "1024x1792"];
const SECONDS = ["", "4", "5", "8", "10", "12"];
const PASTED = "";
const FOLLOW_MS = 700;

export function tryPage(ctx) {
  const values = (ctx.kept.tried ??= {
    key: null,
    pasted: "",
    model: "",
    prompt: "",
    seconds: "",
    size: "",
    id: null, // of the task that was made last
  });
  let wrong = {};
  let busy = false;
  let refused = null; // {title, message}: of the gateway's answer, or of asking for it
  let following = null; // {cell, stop} of the task under way, or the last one

  function follow(id) {
    following?.stop.abort();
    const stop = new AbortController();
    ctx.signal.addEventListener("abort", () => stop.abort(), { signal: stop.signal });
    let told = null;
    const cell = watch(
      FOLLOW_MS,
      async (signal) => {
        const task = await ctx.api.get(`tasks/${encodeURIComponent(id)}`, {}, signal);
        if (told !== task.status) announce(t(`state.${task.status}`));
        told = task.status;
        if (task.status === "completed" || task.status === "failed") stop.abort();
        following.task = task;
        ctx.draw();
        return task;
      },
      stop.signal,
      ctx.draw,
    );
    following = { stop, cell, task: null };
  }

  if (values.id !== null) follow(values.id);

  function read() {
    wrong = {};
    const token = values.key === PASTED || values.key === null ? values.pasted.trim() : values.key;
    if (!token) wrong.key = t("try.key.missing");
    if (!values.model) wrong.model = t("try.model.missing");
    if (!values.prompt.trim()) wrong.prompt = t("try.prompt.missing");
    if (Object.keys(wrong).length > 0) return null;
    const body = { token, model: values.model, prompt: values.prompt.trim() };
    if (values.seconds) body.seconds = Number(values.seconds);
    if (values.size) body.size = values.size;
    return body;
  }

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const body = read();
    refused = null;
    if (body === null) {
      ctx.draw();
      queueMicrotask(() => document.querySelector("main [aria-invalid=true]")?.focus());
      return;
    }
    busy = true;
    ctx.draw();
    try {
      const answer = await ctx.api.post("try", body); // goes on when this page is left
      if (answer.status < 300 && answer.body?.id) {
        values.id = answer.body.id;
        if (ctx.signal.aborted) return;
        announce(t("try.sent"));
        follow(values.id);
        queueMicrotask(() =>
          document.getElementById("screen")?.scrollIntoView({ block: "nearest" }),
        );
      } else {
        const message = answer.body?.error?.message ?? JSON.stringify(answer.body);
        refused = { title: t("try.refused", { status: answer.status }), message };
      }
    } catch (error) {
      refused = { title: describe(error), message: error.message };
    }
    busy = false;
    ctx.draw();
  }

  // ---------------------------------------------------------------- the form

  function keyFields() {
    const known = ctx.keys.filter(({ refused: isRefused }) => !isRefused);
    if (values.key && !known.some(({ token }) => token === values.key)) values.key = null;
    if (values.key === null && known.length > 0) values.key = known[0].token;
    const pasting = !values.key;
    return [
      known.length > 0 &&
        field({
          id: "try-known",
          label: t("try.key"),
          control: select(
            [
              ...known.map(({ name, token }) => [token, t("try.key.known", { name })]),
              [PASTED, t("try.key.other")],
            ],
            {
              value: values.key ?? PASTED,
              onchange: (event) => {
                values.key = event.currentTarget.value;
                ctx.draw();
              },
            },
          ),
        }),
      pasting &&
        field({
          id: "try-key",
          label: t("try.key"),
          hint: t("try.key.hint"),
          error: wrong.key,
          control: input({
            type: "password",
            autocomplete: "off",
            spellcheck: "false",
            placeholder: "rw_…",
            value: values.pasted,
            oninput: (event) => (values.pasted = event.currentTarget.value),
          }),
        }),
    ];
  }

  function form() {
    const models = ctx.facts()?.models ?? [];
    if (!values.model && models.length > 0) [values.model] = models;
    const keep = (name) => (event) => {
      values[name] = event.currentTarget.value;
      ctx.draw();
    };
    const options = (all, say) => all.map((one) => [one, one ? say(one) : t("try.default")]);
    return h(
      "form",
      { class: "card form", onsubmit: submit, novalidate: true, key: "form" },
      keyFields(),
      field({
        id: "try-model",
        label: t("task.model"),
        error: wrong.model,
        hint: models.length === 0 ? t("try.no.models") : undefined,
        control: select(
          models.map((model) => [model, model]),
          { value: values.model, onchange: keep("model") },
        ),
      }),
      field({
        id: "try-prompt",
        label: t("task.prompt"),
        error: wrong.prompt,
        control: (given) =>
          h("textarea", {
            ...given,
            class: "input",
            rows: 4,
            placeholder: t("try.prompt.example"),
            value: values.prompt,
            oninput: keep("prompt"),
          }),
      }),
      h(
        "div",
        { class: "pair" },
        field({
          id: "try-seconds",
          label: t("task.seconds"),
          control: select(options(SECONDS, format.seconds), {
            value: values.seconds,
            onchange: keep("seconds"),
          }),
        }),
        field({
          id: "try-size",
          label: t("task.size"),
          control: select(
            options(SIZES, (size) => size.replace("x", " × ")),
            {
              value: values.size,
              onchange: keep("size"),
            },
          ),
        }),
      ),
      refused &&
        h(
          "div",
          { class: "callout bad", role: "alert" },
          icon("alert"),
          h(
            "div",
            { class: "callout-text" },
            h("strong", {}, refused.title),
            h("p", {}, refused.message),
          ),
        ),
      button(busy ? t("do.working") : t("try.do"), undefined, {
        kind: "primary full",
        sign: "spark",
        type: "submit",
        busy,
      }),
    );
  }

  // The same request as a client sends it; the key is a variable, never written out.
  function command() {
    const url = (ctx.facts()?.public_url ?? "").replace(/\/$/, "");
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const parts = [
      `curl ${url}/v1/videos`,
      `-H "Authorization: Bearer $KEY"`,
      `-F model=${quoted(values.model)}`,
      `-F prompt=${quoted(values.prompt.trim() || t("try.prompt.example"))}`,
      values.seconds && `-F seconds=${values.seconds}`,
      values.size && `-F size=${values.size}`,
    ].filter(Boolean);
    const text = parts.join(" \\\n  ");
    return h(
      "details",
      { class: "more", key: "command" },
      h("summary", {}, t("try.curl")),
      h(
        "div",
        { class: "more-body with-copy" },
        h("pre", { class: "code", tabindex: 0 }, text),
        copyButton(text, "curl"),
      ),
    );
  }

  // ---------------------------------------------------------------- the screen

  function screen() {
    const task = following?.task;
    if (!following) return still("film", t("try.idle"));
    if (!task) {
      const error = following.cell?.error;
      return error ? still("alert", describe(error)) : still("clock", t("loading"));
    }
    if (task.content_url) return player(task);
    if (task.status === "failed") return still("alert", task.error?.message ?? t("failure.other"));
    return h(
      "div",
      { class: "screen", key: "screen" },
      h(
        "div",
        { class: "screen-text" },
        ring(task.progress ?? 0, t("task.progress")),
        h("p", {}, t(`try.${task.status}`), " ", format.duration(now() - task.created_ms)),
      ),
    );
  }

  function outcome() {
    const task = following?.task;
    if (!task) return null;
    return card(
      t("task.timeline"),
      h(
        "p",
        { class: "outcome" },
        badge(stateOf(task)),
        link(`#/tasks/${encodeURIComponent(task.id)}`, t("try.more")),
      ),
      timeLine(task),
    );
  }

  function view() {
    return [
      pageHead(t("nav.try"), t("try.lead")),
      h(
        "div",
        { class: "studio", key: "studio" },
        h("div", { class: "stack" }, form(), command()),
        h("div", { class: "stack", id: "screen" }, screen(), outcome()),
      ),
    ];
  }

  return { title: () => t("nav.try"), view };
}

function still(sign, text) {
  return h(
    "div",
    { class: "screen", key: "screen" },
    h("div", { class: "screen-text" }, icon(sign), h("p", {}, text)),
  );
}
