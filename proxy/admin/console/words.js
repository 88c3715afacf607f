// What the gateway writes in words of its own, as a reader of the chosen language says it. A word
// that is not known here, of a newer gateway perhaps, stays as it was written.

import { has, t } from "./text.js";

const known = (key, word) => (has(key) ? t(key) : word);

export const stage = (word) => known(`stage.${word}`, word);
export const operation = (word) => known(`operation.${word}`, word);

// A case of a price, such as `720p+audio`.
export function priceCase(text) {
  const words = text.split("+");
  return words.map((word) => known(`routes.case.${word}`, word)).join("+");
}

// Events of the time line that are one phrase.
const WHOLE = {
  "never sent": "event.never_sent",
  "the upstream does not know it": "event.not_known",
  "gave up waiting": "event.gave_up",
  "cancelled at the provider": "event.cancelled",
};

// What follows the first word of an event.
const RESTS = [
  ["again_to", /^attempt (?<n>\d+) to (?<place>\S+): attempt (?<last>\d+) was refused, (?<why>.+)/],
  ["attempt", /^attempt (?<n>\d+) to (?<place>\S+)$/],
  ["as", /^as (?<id>.+)$/],
  ["queue_of", /^in the queue of (?<name>.+)$/],
  ["waits_again", /^(?<why>.+): waiting again$/],
  ["sender_gone", /^whoever sent it is gone$/],
  ["too_long", /^for too long$/],
  ["by_owner", /^by its owner$/],
];

// `sent attempt 1 to a/b` → the phrase of its first word, and the rest.
export function phrase(event) {
  if (Object.hasOwn(WHOLE, event)) return [t(WHOLE[event]), ""];
  const [first] = event.split(/[\s:,]/, 1);
  if (!has(`event.${first}`)) return [event, ""];
  const rest = event.slice(first.length).replace(/^[:,\s]+/, "");
  for (const [key, pattern] of RESTS) {
    const found = pattern.exec(rest);
    if (found) return [t(`event.${first}`), t(`rest.${key}`, found.groups)];
  }
  return [t(`event.${first}`), rest];
}
