// The script of the status page. It only reads the JSON API of the same server. Values from the API are
// inserted as text, never as markup, so a container's name cannot inject a script.
//
// The server joins base.js, pools.js, leases.js, map.js and page.js into one module, in this order. base.js
// has the helpers for texts, addresses and the URL.

const STATE = { free: 0, used: 1, reserved: 2, gateway: 3, cooling: 4, outside: 5 };
const NAMES = Object.keys(STATE);

const at = (id) => document.getElementById(id);
const root = document.documentElement;

/** Creates an element with CSS classes and with text or child elements. */
function make(tag, classes = "", ...content) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...content);
  return element;
}

const counted = new Intl.NumberFormat("en");
function count(number) {
  return number < 1e15 ? counted.format(number) : Number(number).toExponential(1).replace("e+", "e");
}

function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Formats an RFC 3339 time as `2026-11-21 10:31:05`. */
const clock = (time) => (time ? time.slice(0, 19).replace("T", " ") : "");

/** Formats a duration in seconds as `40 min` or `3 h`. */
function about(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** Formats a time as `3 h ago`, by the clock of the browser's host, which can differ from the server's clock. */
const ago = (time) => `${about((Date.now() - Date.parse(time)) / 1000)} ago`;

/** Creates an element that shows how long ago a time was, and shows the exact time on hover. */
function since(time) {
  const element = make("time", "", time ? ago(time) : "");
  if (time) Object.assign(element, { dateTime: time, title: `${clock(time)} UTC` });
  return element;
}

// ---- addresses -------------------------------------------------------------------------------

/** Parses an address into {v6, value}: whether it is IPv6, and its number as a BigInt. */
function parse(text) {
  if (!text.includes(":")) {
    return { v6: false, value: BigInt(text.split(".").reduce((sum, part) => sum * 256 + Number(part), 0)) };
  }
  const groups = (part) => (part ? part.split(":") : []);
  const dotted = text.match(/^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/);
  if (dotted) {
    const [, head, a, b, c, d] = dotted;
    text = `${head}${(a * 256 + +b).toString(16)}:${(c * 256 + +d).toString(16)}`;
  }
  const [head, tail] = text.split("::");
  const left = groups(head);
  const right = groups(tail);
  const gap = tail === undefined ? [] : Array(8 - left.length - right.length).fill("0");
  const hex = [...left, ...gap, ...right].map((group) => group.padStart(4, "0")).join("");
  return { v6: true, value: BigInt(`0x${hex}`) };
}

/** Formats an address in the form that RFC 5952 recommends. */
function show(value, v6) {
  if (!v6) return [24n, 16n, 8n, 0n].map((bits) => (value >> bits) & 255n).join(".");
  const groups = [];
  for (let bits = 112n; bits >= 0n; bits -= 16n) groups.push((value >> bits) & 0xffffn);
  let best = [0, 0];
  for (let from = 0; from < 8; from += 1) {
    let to = from;
    while (to < 8 && groups[to] === 0n) to += 1;
    if (to - from > best[1] - best[0] && to - from > 1) best = [from, to];
  }
  const text = (part) => part.map((group) => group.toString(16)).join(":");
  if (best[1] === 0) return text(groups);
  return `${text(groups.slice(0, best[0]))}::${text(groups.slice(best[1]))}`;
}

/** Returns the number of low bits that remain when the common prefix of two addresses is removed. */
const span = (first, last) => (first ^ last).toString(2).replace(/^0$/, "").length;

// ---- the URL ---------------------------------------------------------------------------------

/**
 * The query parameters of the URL determine what the page shows: `store`; `network` and `range` (the pool);
 * `at` (the prefix on the pool's map); `time` (of the map); `q` (the search words); `address` (in the side
 * panel).
 */
const route = {
  get now() { return Object.fromEntries(new URLSearchParams(location.search)); },

  /** Returns the current URL with some parameters changed. An empty value removes a parameter. */
  href(changes) {
    const all = Object.entries({ ...this.now, ...changes }).filter(([, value]) => value);
    return `?${new URLSearchParams(all)}`;
  },

  /** Changes the URL and updates the page. If not `push`, the Back button skips the previous URL. */
  go(changes, push = true) {
    const href = this.href(changes);
    if (href === this.href({})) return;
    history[push ? "pushState" : "replaceState"](null, "", href + (push ? "" : location.hash));
    this.show();
  },

  /** Updates the page to show what the URL selects. */
  show() {
    const { q = "", address, at: prefix, time } = this.now;
    if (at("search").value.trim() !== q) at("search").value = q;
    map.choose(chosen() ?? neediest(), prefix);
    past.show(time);
    table.refresh();
    mark();
    if (address) panel.open(address);
    else at("panel").close();
  },

  /** Makes an element a link that changes these parameters of the URL. */
  link(element, changes) {
    element.href = this.href(changes);
    element.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      this.go(changes);
    });
    return element;
  },
};
