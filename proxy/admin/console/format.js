// Times, amounts and sizes as a reader of the chosen language writes them.

import { now } from "./clock.js";
import { language, t } from "./text.js";

const cache = new Map();

function made(Kind, options) {
  const key = `${Kind.name} ${language()} ${JSON.stringify(options)}`;
  if (!cache.has(key)) cache.set(key, new Kind(language() === "zh" ? "zh-CN" : "en-GB", options));
  return cache.get(key);
}

export const NONE = "–";

export function number(value) {
  return made(Intl.NumberFormat, {}).format(value);
}

export function percent(share) {
  return made(Intl.NumberFormat, { style: "percent", maximumFractionDigits: 0 }).format(share);
}

// Micro-units of `currency`. Whole cents have two decimals, parts of a cent as many as they need.
export function money(micro, currency) {
  if (micro === null || micro === undefined) return NONE;
  const options = { minimumFractionDigits: 2, maximumFractionDigits: 6 };
  try {
    const style = { style: "currency", currency, currencyDisplay: "narrowSymbol", ...options };
    return made(Intl.NumberFormat, style).format(micro / 1e6);
  } catch {
    return `${made(Intl.NumberFormat, options).format(micro / 1e6)} ${currency}`;
  }
}

// What someone typed as an amount, in micro-units; null when it is none.
export function parseMoney(text) {
  const found = /^(\d{1,9})(?:\.(\d{1,6}))?$/.exec(text.trim());
  return found ? Number(found[1]) * 1e6 + Number((found[2] ?? "").padEnd(6, "0")) : null;
}

// Micro-units as `parseMoney` reads them.
export function plainMoney(micro) {
  return micro === null || micro === undefined ? "" : String(micro / 1e6);
}

export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = count;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  const options = { maximumFractionDigits: at ? 1 : 0 };
  return `${made(Intl.NumberFormat, options).format(value)} ${units[at]}`;
}

// A duration in one unit, two for the long ones: "420 ms", "4.2 s", "3 min 5 s", "2 h 10 min".
export function duration(ms) {
  const one = (value, unit, digits = 0) =>
    t(`unit.${unit}`, {
      n: made(Intl.NumberFormat, { maximumFractionDigits: digits }).format(value),
    });
  const two = (big, bigUnit, small, smallUnit) =>
    small ? `${one(big, bigUnit)} ${one(small, smallUnit)}` : one(big, bigUnit);
  const positive = Math.max(0, ms);
  if (positive < 1000) return one(positive, "ms");
  if (positive < 60_000) return one(positive / 1000, "s", positive < 10_000 ? 1 : 0);
  const s = Math.floor(positive / 1000);
  const [min, h, d] = [Math.floor(s / 60), Math.floor(s / 3600), Math.floor(s / 86_400)];
  if (h < 1) return two(min, "min", s % 60, "s");
  if (d < 1) return two(h, "h", min % 60, "min");
  return two(d, "d", h % 24, "h");
}

// How long ago, in the one unit that matters.
export function ago(ms) {
  if (ms === null || ms === undefined) return NONE;
  const s = Math.round((now() - ms) / 1000);
  if (Math.abs(s) < 5) return t("time.now");
  const units = [
    ["day", 86_400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
  ];
  const [unit, size] = units.find(([, seconds]) => Math.abs(s) >= seconds);
  const options = { numeric: "always", style: "short" };
  return made(Intl.RelativeTimeFormat, options).format(-Math.trunc(s / size), unit);
}

export function moment(ms) {
  if (ms === null || ms === undefined) return NONE;
  return made(Intl.DateTimeFormat, { dateStyle: "medium", timeStyle: "medium" }).format(ms);
}

export function clockTime(ms) {
  return made(Intl.DateTimeFormat, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    fractionalSecondDigits: 3,
    hourCycle: "h23",
  }).format(ms);
}

// A UTC day, `2026-11-23`, short enough for an axis.
export function dayName(day, style = "short") {
  const options =
    style === "short"
      ? { month: "short", day: "numeric", timeZone: "UTC" }
      : { dateStyle: "full", timeZone: "UTC" };
  return made(Intl.DateTimeFormat, options).format(Date.parse(`${day}T00:00:00Z`));
}

// The UTC days up to today, oldest first.
export function lastDays(count) {
  const today = Math.floor(now() / 86_400_000);
  return Array.from({ length: count }, (_, back) =>
    new Date((today - count + 1 + back) * 86_400_000).toISOString().slice(0, 10),
  );
}

export function seconds(value) {
  return value === null || value === undefined ? NONE : t("unit.s", { n: number(value) });
}
