// An address that names no page.

import { buttonLink, pageHead } from "../parts.js";
import { t } from "../text.js";

export function missingPage() {
  return {
    title: () => t("missing.title"),
    view: () =>
      pageHead(
        t("missing.title"),
        t("missing.text"),
        buttonLink("#/", t("missing.go"), { kind: "primary" }),
      ),
  };
}
