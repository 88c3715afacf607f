// Charts as SVG: a value per day and series as stacked bars, a row of small bars, a ring.

import { h } from "./dom.js";
import { t } from "./text.js";

const HEIGHT = 200;
const TOP = 12;
const BOTTOM = 26;
const LEFT = 56;
const GAP = 0.28; // of a day's width, between two bars
const SERIES = 6; // colours there are; what is beyond them is told as one

// A chart of its own width and chosen day. `changed` asks for a new drawing.
export function makeChart(id, changed, signal) {
  let width = 640;
  let chosen = null;
  const observer = new ResizeObserver(([entry]) => {
    const found = Math.round(entry.contentRect.width);
    if (found > 0 && found !== width) {
      width = found;
      changed();
    }
  });
  signal.addEventListener("abort", () => observer.disconnect());

  // `series`: {name, values: one per day}, the most important first; `say` writes a value, whole
  // numbers only where `whole`; `sayDay(day, style)` writes a day.
  return function view({ title, days, series, say, sayDay, whole = false }) {
    const shown = combined(series, days.length);
    const day = Math.min(chosen ?? days.length - 1, days.length - 1);
    const choose = (index) => {
      chosen = Math.max(0, Math.min(days.length - 1, index));
      changed();
    };
    const sums = days.map((_, index) => sum(shown.map(({ values }) => values[index])));
    const readout = [
      sayDay(days[day], "full"),
      say(sums[day]),
      ...shown
        .filter(({ values }) => values[day] > 0)
        .map(({ name, values }) => `${name} ${say(values[day])}`),
    ];
    return h(
      "figure",
      { class: "chart", key: id },
      h(
        "figcaption",
        { class: "chart-head" },
        h("span", { class: "chart-title" }, title),
        h("span", { class: "chart-total" }, say(sum(sums))),
      ),
      h(
        "p",
        { class: "chart-readout", "aria-hidden": "true" },
        h("strong", {}, readout[0]),
        ` · ${readout.slice(1).join(" · ")}`,
      ),
      h(
        "div",
        {
          class: "chart-area",
          role: "slider",
          tabindex: 0,
          "aria-label": t("chart.day", { title }),
          "aria-valuemin": 1,
          "aria-valuemax": days.length,
          "aria-valuenow": day + 1,
          "aria-valuetext": readout.join(", "),
          ref: (node) => observer.observe(node),
          onkeydown: (event) => {
            const step = { ArrowLeft: day - 1, ArrowRight: day + 1, Home: 0, End: days.length };
            if (!(event.key in step)) return;
            event.preventDefault();
            choose(step[event.key]);
          },
        },
        drawing({ width, days, shown, sums, day, choose, say, sayDay, whole }),
      ),
      h(
        "ul",
        { class: "legend" },
        shown.map(({ name, values }, index) =>
          h(
            "li",
            { key: name },
            h("span", { class: `swatch series-${index + 1}` }),
            h("span", { class: "legend-name" }, name),
            h("span", { class: "legend-value" }, say(sum(values))),
          ),
        ),
      ),
    );
  };
}

function drawing({ width, days, shown, sums, day, choose, say, sayDay, whole }) {
  const top = niceTop(Math.max(...sums));
  const plot = HEIGHT - TOP - BOTTOM;
  const step = (width - LEFT) / days.length;
  const y = (value) => TOP + plot - (value / top) * plot;
  const every = Math.ceil(days.length / Math.max(2, Math.floor((width - LEFT) / 72)));
  return h(
    "svg",
    { class: "plot", viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, "aria-hidden": "true" },
    [0, 0.5, 1]
      .filter((share) => !whole || Number.isInteger(top * share))
      .map((share) => [
        h("line", { class: "grid", x1: LEFT, x2: width, y1: y(top * share), y2: y(top * share) }),
        h(
          "text",
          { class: "axis", x: LEFT - 8, y: y(top * share) + 4, "text-anchor": "end" },
          say(top * share),
        ),
      ]),
    days.map((name, index) => {
      const x = LEFT + index * step;
      let base = 0;
      return h(
        "g",
        { class: index === day ? "day chosen" : "day", key: name },
        shown.map(({ values }, place) => {
          const value = values[index];
          if (!value) return null;
          base += value;
          return h("rect", {
            class: `series-${place + 1}`,
            x: x + (step * GAP) / 2,
            width: Math.max(1, step * (1 - GAP)),
            y: y(base),
            height: Math.max(1, y(base - value) - y(base)),
          });
        }),
        h("rect", {
          class: "hit",
          x,
          width: step,
          y: TOP,
          height: plot,
          onpointermove: () => choose(index),
          onpointerdown: () => choose(index),
        }),
        (days.length - 1 - index) % every === 0 &&
          h(
            "text",
            {
              class: "axis",
              x: x + step / 2,
              y: HEIGHT - 8,
              "text-anchor": index === days.length - 1 && every > 1 ? "end" : "middle",
              dx: index === days.length - 1 && every > 1 ? step / 2 : 0,
            },
            sayDay(name, "short"),
          ),
      );
    }),
  );
}

// Those that have no colour of their own as one.
function combined(series, length) {
  if (series.length <= SERIES) return series;
  const rest = series.slice(SERIES - 1);
  const values = Array.from({ length }, (_, day) => sum(rest.map((one) => one.values[day])));
  return [...series.slice(0, SERIES - 1), { name: t("chart.others", { n: rest.length }), values }];
}

const sum = (values) => values.reduce((all, one) => all + one, 0);

// The next round number that is no smaller, and has a round half.
function niceTop(value) {
  if (value <= 0) return 2;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.6, 2, 3, 4, 5, 6, 8, 10].map((one) => one * power).find((one) => one >= value);
}

// A row of small bars, the last one marked; what it shows is said beside it.
export function sparkBars(values) {
  const most = Math.max(...values, 1e-9);
  const step = 120 / values.length;
  return h(
    "svg",
    { class: "spark", viewBox: "0 0 120 32", preserveAspectRatio: "none", "aria-hidden": "true" },
    values.map((value, index) => {
      const height = Math.max(1.5, (value / most) * 32);
      return h("rect", {
        key: index,
        class: index === values.length - 1 ? "spark-last" : "spark-bar",
        x: index * step + 1,
        width: step - 2,
        y: 32 - height,
        height,
        rx: 1,
      });
    }),
  );
}

// How far something is, as a ring with the figure in it. `value` from 0 to 100.
export function ring(value, label) {
  return h(
    "span",
    {
      class: "ring",
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": value,
    },
    h(
      "svg",
      { viewBox: "0 0 100 100", "aria-hidden": "true" },
      h("circle", { class: "ring-ground", cx: 50, cy: 50, r: 43 }),
      h("circle", {
        class: "ring-value",
        cx: 50,
        cy: 50,
        r: 43,
        pathLength: 100,
        "stroke-dasharray": "100 100",
        "stroke-dashoffset": 100 - value,
      }),
    ),
    h("span", { class: "ring-figure" }, Math.round(value), h("small", {}, "%")),
  );
}
