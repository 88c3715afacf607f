// What a token may do and have, as a form: for a new one, and to change one.

import { now } from "./clock.js";
import { field, select } from "./controls.js";
import { h } from "./dom.js";
import { formDialog } from "./form_dialog.js";
import { limitFields, limitValues, readLimits, textField } from "./limits_form.js";
import { t } from "./text.js";

const OPERATIONS = [
  ...["create", "remix", "edit", "extend", "get", "list", "delete", "content"],
  ...["models", "events", "usage"],
];
const DAY_MS = 86_400_000;

// `token` is the one to change, none to make one; `send` and `done` as of any form.
export function tokenDialog(ctx, { title, label, token = null, owners = [], send, done }) {
  const isNew = token === null;
  const before = valuesOf(token);
  const values = valuesOf(token);
  const dialects = ctx.facts()?.dialects ?? [];
  formDialog({
    title,
    label,
    send,
    done,
    read: () => read(values, before, isNew, dialects),
    fields: (wrong, draw) =>
      fields({
        values,
        wrong,
        isNew,
        owners,
        draw,
        dialects,
        models: ctx.facts()?.models ?? [],
        currency: ctx.facts()?.currency ?? "USD",
      }),
  });
}

// What the fields show of a token, or of none; `expires` "" leaves the expiry as it is.
function valuesOf(token) {
  return {
    name: token?.name ?? "",
    owner: token?.owner ?? "",
    models: (token?.models ?? []).join(", "),
    addresses: (token?.addresses ?? []).join(", "),
    dialects: new Set(token?.dialects ?? []),
    operations: new Set(token?.operations ?? []),
    shared: token?.shared ?? false,
    webhook: token?.webhook ?? "",
    labels: Object.entries(token?.labels ?? {})
      .map((pair) => pair.join("="))
      .join(", "),
    expires: token ? "" : "never",
    ...limitValues(token?.limits),
  };
}

// {body} as the API takes it, of what differs from before; null for nothing.
function read(values, before, isNew, dialects) {
  const wrong = {};
  const body = {};
  const name = values.name.trim();
  if (!name) wrong.name = t("form.name");
  else if (name !== before.name) body.name = name;
  if (isNew && values.owner.trim()) body.owner = values.owner.trim();
  for (const field of ["models", "addresses"]) {
    if (values[field] !== before[field]) body[field] = listed(values[field], /[,\s，、]+/);
  }
  for (const [field, all] of [
    ["dialects", dialects],
    ["operations", OPERATIONS],
  ]) {
    const chosen = all.filter((one) => values[field].has(one));
    if (chosen.join() !== all.filter((one) => before[field].has(one)).join()) body[field] = chosen;
  }
  if (values.shared !== before.shared) body.shared = values.shared;
  if (values.webhook !== before.webhook) body.webhook = values.webhook.trim() || null;
  if (values.labels !== before.labels) body.labels = readLabels(values.labels, wrong);
  if (values.expires === "never" && !isNew) body.expires_ms = null;
  if (Number(values.expires) > 0) body.expires_ms = now() + Number(values.expires) * DAY_MS;
  const limits = readLimits(values, before, wrong);
  if (Object.keys(limits).length > 0) body.limits = limits;
  if (Object.keys(wrong).length > 0) return { wrong };
  return { body: Object.keys(body).length > 0 ? body : null };
}

function readLabels(text, wrong) {
  const labels = {};
  for (const pair of listed(text, /[,，]/)) {
    const [name, ...rest] = pair.split("=");
    if (rest.length === 0 || !name.trim()) wrong.labels = t("form.labels");
    labels[name.trim()] = rest.join("=").trim();
  }
  return labels;
}

const listed = (text, between) =>
  text
    .split(between)
    .map((one) => one.trim())
    .filter(Boolean);

function fields({ values, wrong, isNew, dialects, models, owners, currency, draw }) {
  return [
    h(
      "div",
      { class: "pair" },
      textField(values, wrong, "name", { required: true, autofocus: isNew }),
      isNew &&
        textField(values, wrong, "owner", {
          list: "known-owners",
          optional: true,
          hint: t("form.owner"),
        }),
    ),
    isNew &&
      h(
        "datalist",
        { id: "known-owners" },
        owners.map((one) => h("option", { value: one, key: one })),
      ),
    modelsField(values, wrong, models, draw),
    field({
      id: "form-expires_ms",
      label: t("token.expires"),
      error: wrong.expires_ms,
      control: select(
        [
          ...(isNew ? [] : [["", t("form.expires.keep")]]),
          ["never", t("form.expires.never")],
          ...[1, 7, 30, 90, 365].map((n) => [String(n), t("form.expires.days", { n })]),
        ],
        {
          value: values.expires,
          onchange: (event) => (values.expires = event.currentTarget.value),
        },
      ),
    }),
    limitFields(values, wrong, currency),
    h(
      "details",
      { class: "more", open: ["webhook", "addresses", "labels"].some((name) => wrong[name]) },
      h("summary", {}, t("form.more")),
      h("div", { class: "more-body" }, [
        boxes("dialects", dialects, values, draw),
        boxes("operations", OPERATIONS, values, draw),
        textField(values, wrong, "addresses", { optional: true, hint: t("form.addresses") }),
        textField(values, wrong, "webhook", {
          optional: true,
          hint: t("form.webhook"),
          inputmode: "url",
        }),
        textField(values, wrong, "labels", { optional: true, hint: t("form.labels") }),
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            checked: values.shared,
            onchange: (event) => (values.shared = event.currentTarget.checked),
          }),
          h("span", {}, t("form.shared")),
        ),
      ]),
    ),
  ];
}

// Globs may be typed; the known names are there to press.
function modelsField(values, wrong, models, draw) {
  const chosen = new Set(listed(values.models, /[,\s，、]+/));
  const press = (model) => () => {
    if (chosen.has(model)) chosen.delete(model);
    else chosen.add(model);
    values.models = [...chosen].join(", ");
    draw();
  };
  return [
    textField(values, wrong, "models", {
      optional: true,
      hint: t("form.models"),
      placeholder: t("form.any.model"),
    }),
    models.length > 0 &&
      h(
        "div",
        { class: "chips", role: "group", "aria-label": t("form.known.models") },
        models.map((model) =>
          h(
            "button",
            {
              class: "chip",
              type: "button",
              key: model,
              "aria-pressed": String(chosen.has(model)),
              onclick: press(model),
            },
            model,
          ),
        ),
      ),
  ];
}

function boxes(name, options, values, draw) {
  const tick = (one) => (event) => {
    if (event.currentTarget.checked) values[name].add(one);
    else values[name].delete(one);
    draw();
  };
  return h(
    "fieldset",
    { class: "group" },
    h("legend", {}, t(`token.${name}`)),
    h("p", { class: "hint" }, t("form.none.is.all")),
    h(
      "div",
      { class: "checks" },
      options.map((one) =>
        h(
          "label",
          { class: "check", key: one },
          h("input", { type: "checkbox", checked: values[name].has(one), onchange: tick(one) }),
          h("span", {}, one),
        ),
      ),
    ),
  );
}
