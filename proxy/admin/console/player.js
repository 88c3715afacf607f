// A finished video: played in the page, and to take home.

import { at } from "./api.js";
import { h } from "./dom.js";
import { buttonLink } from "./parts.js";
import { note } from "./says.js";
import { t } from "./text.js";

// `url` is the address of one of its results.
export function player(task, url = task.content_url) {
  const src = at(url);
  return h(
    "figure",
    { class: "player", key: `player ${url}` },
    h(
      "div",
      { class: "player-frame" },
      h("video", {
        controls: true,
        playsinline: true,
        preload: "metadata",
        src,
        "aria-label": t("task.video.of", { prompt: task.prompt || task.id }),
        onerror: () => note(t("task.video.failed"), "bad"),
      }),
    ),
    h(
      "figcaption",
      { class: "player-foot" },
      h("span", { class: "quiet" }, [task.size, task.model].filter(Boolean).join(" · ")),
      buttonLink(src, t("do.download"), { sign: "download", download: `${task.id}.mp4` }),
    ),
  );
}
