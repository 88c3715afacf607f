// The page as values: `h` describes elements, `draw` changes the document until it agrees.
//
// Rule: data becomes text or an attribute, never markup. There is no way through this module to
// have a string parsed as HTML, a handler given as a string, or a `javascript:` address.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "open", "selected"]);
const ADDRESSES = new Set(["href", "src", "poster"]);
const FORBIDDEN = new Set(["innerhtml", "outerhtml", "srcdoc"]);

const drawn = new WeakMap(); // an element → what `draw` put into it
const handlers = new WeakMap(); // an element → its handlers by event type

// An element with `props` and children: elements, strings, numbers, lists of them; null, undefined
// and booleans are left out. Special props: `key` tells siblings apart, `onclick` and the like are
// functions, `style` is an object of CSS properties, `ref` is told the new node.
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children: flat(children, []), node: null };
}

function flat(children, into) {
  for (const child of children) {
    if (Array.isArray(child)) flat(child, into);
    else if (child === null || child === undefined || typeof child === "boolean") continue;
    else if (typeof child === "object") into.push(child);
    else into.push({ tag: null, props: {}, text: String(child), node: null });
  }
  return into;
}

// Make `root` hold exactly these children. Nodes that stay keep their focus, scroll and playback.
export function draw(root, ...children) {
  const next = flat(children, []);
  patchChildren(root, drawn.get(root) ?? [], next, root.namespaceURI === SVG);
  drawn.set(root, next);
}

function patchChildren(parent, before, after, isSvg) {
  const keyed = new Map();
  const plain = [];
  for (const old of before) {
    if (old.props.key === undefined) plain.push(old);
    else keyed.set(old.props.key, old);
  }
  const kept = new Set();
  let at = 0;
  const pairs = after.map((next) => {
    let old;
    if (next.props.key !== undefined) old = keyed.get(next.props.key);
    else if (at < plain.length && plain[at].tag === next.tag) old = plain[at++];
    else {
      const found = plain.findIndex((one, index) => index >= at && one.tag === next.tag);
      if (found >= 0) [old, at] = [plain[found], found + 1];
    }
    if (old && (old.tag !== next.tag || kept.has(old))) old = undefined;
    if (old) kept.add(old);
    return [old, next];
  });
  for (const old of before) if (!kept.has(old)) old.node.remove();
  pairs.forEach(([old, next], index) => {
    if (old) patch(old, next, isSvg);
    else create(next, isSvg);
    const there = parent.childNodes[index] ?? null;
    if (there !== next.node) parent.insertBefore(next.node, there);
  });
}

function create(next, isSvg) {
  if (next.tag === null) {
    next.node = document.createTextNode(next.text);
    return;
  }
  const inSvg = isSvg || next.tag === "svg";
  next.node = inSvg ? document.createElementNS(SVG, next.tag) : document.createElement(next.tag);
  patchChildren(next.node, [], next.children, inSvg);
  for (const [name, value] of Object.entries(next.props)) set(next.node, name, value, undefined);
  next.props.ref?.(next.node);
}

function patch(old, next, isSvg) {
  const node = (next.node = old.node);
  if (next.tag === null) {
    if (old.text !== next.text) node.data = next.text;
    return;
  }
  patchChildren(node, old.children, next.children, isSvg || next.tag === "svg");
  for (const name of Object.keys(old.props)) {
    if (!(name in next.props)) set(node, name, undefined, old.props[name]);
  }
  for (const [name, value] of Object.entries(next.props)) {
    set(node, name, value, old.props[name]);
  }
}

function set(node, name, value, before) {
  if (name === "key" || name === "ref" || value === before) return;
  if (FORBIDDEN.has(name.toLowerCase())) throw new TypeError(`${name} cannot be set`);
  if (name.startsWith("on")) listen(node, name.slice(2), value);
  else if (name === "style") restyle(node, value ?? {}, before ?? {});
  else if (PROPERTIES.has(name)) node[name] = value ?? (name === "value" ? "" : false);
  else if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else if (ADDRESSES.has(name) && !isAddress(value)) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}

// One listener for each type of event, whichever function handles it at the moment.
function listen(node, type, handler) {
  const own = handlers.get(node) ?? {};
  handlers.set(node, own);
  if (handler && typeof handler !== "function") throw new TypeError(`on${type} is no function`);
  if (!(type in own)) node.addEventListener(type, dispatch);
  own[type] = handler;
}

function dispatch(event) {
  handlers.get(event.currentTarget)?.[event.type]?.call(event.currentTarget, event);
}

// Through the object model: the page's policy forbids style attributes.
function restyle(node, wanted, before) {
  for (const name of Object.keys(before)) if (!(name in wanted)) node.style.removeProperty(name);
  for (const [name, value] of Object.entries(wanted)) {
    if (before[name] !== value) node.style.setProperty(name, String(value));
  }
}

function isAddress(value) {
  try {
    return ["http:", "https:", "blob:"].includes(new URL(value, document.baseURI).protocol);
  } catch {
    return false;
  }
}
