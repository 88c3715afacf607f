// Budgets and limits as fields: of a token, and of an owner over all its tokens.

import { field, input } from "./controls.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import { t } from "./text.js";

const MONEY = ["budget_micro", "budget_day_micro", "budget_month_micro"];
const COUNTS = [
  "requests_per_minute",
  "submits_per_minute",
  "max_in_flight",
  "max_streams",
  "max_body_bytes",
];

// What the fields show of these limits, as text.
export function limitValues(limits = {}) {
  return {
    ...Object.fromEntries(MONEY.map((name) => [name, format.plainMoney(limits[name])])),
    ...Object.fromEntries(COUNTS.map((name) => [name, String(limits[name] ?? "")])),
  };
}

// The limits that differ from `before` (both as fields show them), as the API takes them: null
// lifts one. What is wrong is written into `wrong`.
export function readLimits(values, before, wrong) {
  const limits = {};
  for (const name of [...MONEY, ...COUNTS]) {
    const text = values[name].trim();
    if (text === before[name]) continue;
    const isMoney = MONEY.includes(name);
    const isRight = isMoney ? format.parseMoney(text) !== null : /^[1-9]\d{0,14}$/.test(text);
    if (text !== "" && !isRight) wrong[name] = t(isMoney ? "form.money" : "form.count");
    limits[name] = text === "" ? null : isMoney ? format.parseMoney(text) : Number(text);
  }
  return limits;
}

export function limitFields(values, wrong, currency) {
  const amount = (name) =>
    textField(values, wrong, name, {
      label: `${t(`token.${name}`)} (${currency})`,
      inputmode: "decimal",
      placeholder: t("form.unlimited"),
    });
  const count = (name) =>
    textField(values, wrong, name, { inputmode: "numeric", placeholder: t("form.unlimited") });
  return [group(t("form.budgets"), MONEY.map(amount)), group(t("form.limits"), COUNTS.map(count))];
}

function group(title, fields) {
  return h(
    "fieldset",
    { class: "group", key: title },
    h("legend", {}, title),
    h("div", { class: "triple" }, fields),
  );
}

// A text field that keeps `values[name]`; more attributes are the input's own.
export function textField(values, wrong, name, { label, hint, optional, ...more } = {}) {
  return field({
    id: `form-${name}`,
    label: label ?? t(`token.${name}`),
    hint,
    optional,
    error: wrong[name],
    control: input({
      value: values[name],
      autocomplete: "off",
      spellcheck: "false",
      oninput: (event) => (values[name] = event.currentTarget.value),
      ...more,
    }),
  });
}
