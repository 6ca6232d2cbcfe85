// The status page. It reads the JSON API beside it and changes nothing. What comes from there is
// put on the page as text, never as markup.

const POLL = 5000; // milliseconds between looks while the page is seen
const RELOAD = 15000; // between loads of many leases
const MANY = 10000;
const STATE = { free: 0, used: 1, reserved: 2, gateway: 3, cooling: 4, outside: 5 };
const NAMES = Object.keys(STATE);

const at = (id) => document.getElementById(id);
const root = document.documentElement;

/** An element with classes and text or children. */
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

/** `2026-11-21 10:31:05` of an RFC 3339 time. */
const clock = (time) => (time ? time.slice(0, 19).replace("T", " ") : "");

// ---- addresses -------------------------------------------------------------------------------

/** {v6, value} of an address; the value is a BigInt. */
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

/** The text of an address, as RFC 5952 has it. */
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

/** How many low bits two addresses differ in. */
const span = (first, last) => (first ^ last).toString(2).replace(/^0$/, "").length;

// ---- what is known ---------------------------------------------------------------------------

const known = { pools: [], leases: [], cooling: [], sets: new Map(), version: null, loaded: 0, more: 0 };

class Unanswered extends Error {}

async function get(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store" });
  } catch {
    throw new Unanswered("subletd does not answer; what you see is what it last said");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Unanswered(told.error ?? `${path}: status ${answer.status}`);
  }
  return answer;
}

/** The facts of a lease that the page works with. */
function lease(row) {
  const { v6, value } = parse(row.address);
  row.set ??= row.network;
  row.v6 = v6;
  row.value = value;
  row.who = row.id || row.endpoint || row.holder || row.containerID || row.note || "";
  row.pod = row.podName ? `${row.podNamespace}/${row.podName}` : "";
  return row;
}

/** Who has it, a container's long ID cut. */
const brief = (row) => (row.who === row.containerID ? row.who.slice(0, 13) : row.who);

/** Reads all leases: one stands on each line, so that no long answer stops the page. */
async function readLeases() {
  const answer = await get("api/v1/leases");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const leases = [];
  const cooling = [];
  let rest = "";
  let into = leases; // the document's lines: leases, then what cools
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (line.startsWith('],"cooling"')) into = cooling;
      if (line.startsWith("{") && line.includes('"address"')) {
        const row = JSON.parse(line.endsWith(",") ? line.slice(0, -1) : line);
        into.push(into === leases ? lease(row) : { ...row, value: parse(row.address).value });
      }
    }
    if (done) break;
  }
  known.leases = leases;
  known.cooling = cooling;
  known.sets = Map.groupBy(leases, (row) => row.set);
  known.sets.forEach((rows) => rows.sort(byAddress));
}

async function look() {
  const trouble = at("trouble");
  const read = async (what) => (await get(`api/v1/${what}`)).json();
  // Every record is looked at for it: that may take longer than all else.
  const problems = read("problems").then(showProblems, (error) => error);
  try {
    const pools = await read("pools");
    known.pools = pools.pools;
    showFacts(pools);
    showPools();
    showNodes((await read("nodes")).nodes);
    const stale = known.version !== pools.leasesVersion;
    if (stale && (known.version === null || pools.leases < MANY || Date.now() - known.loaded > RELOAD)) {
      await readLeases();
      known.version = pools.leasesVersion;
      known.loaded = Date.now();
      known.more = pools.leases - known.leases.length;
      table.refresh();
    }
    map.refresh();
    const failed = await problems;
    if (failed) throw failed;
    trouble.hidden = true;
    at("fresh").textContent = `${plural(pools.leases, "lease")}, ${clock(pools.time).slice(11)} UTC`;
    root.dataset.ready = "yes";
  } catch (error) {
    if (!(error instanceof Unanswered)) console.error(error);
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
}

// ---- pools, nodes, problems ------------------------------------------------------------------

function showFacts(facts) {
  at("where").textContent = `${facts.node} \u00b7 ${facts.store}`;
  at("where").title = facts.store;
  at("version").textContent = `sublet ${facts.version}`;
  document.title = facts.node ? `sublet on ${facts.node}` : "sublet";
}

const keyOf = (pool) => `${pool.set} ${pool.network} ${pool.first}`;
// Not size less free: of a /64 a number holds too few digits for that.
const takenOf = (pool) => pool.used + pool.reserved + pool.cooling;
const shareOf = (pool) => (pool.size ? takenOf(pool) / pool.size : 1);
const rangeOf = (pool) => pool.subnet ?? `${pool.first} - ${pool.last}`;
const NOTHING = "No pool yet: it appears with the first container of a network whose configuration says ";

function showPools() {
  const list = at("pools");
  at("pools-count").textContent = known.pools.length ? plural(known.pools.length, "pool") : "";
  if (known.pools.length === 0) {
    const empty = make("li", "empty", NOTHING, make("code", "", '"ipam": {"type": "sublet"}'), ", or with ",
      make("code", "", "docker network create --ipam-driver sublet"), ".");
    list.replaceChildren(empty);
    return;
  }
  const old = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = known.pools.map((pool) => {
    const key = keyOf(pool);
    const item = old.get(key) ?? poolItem(pool);
    item.dataset.key = key;
    fill(item.firstChild, pool);
    return item;
  });
  if (items.length !== list.children.length || items.some((item, i) => item !== list.children[i])) {
    list.replaceChildren(...items);
  }
  if (!known.pools.some((pool) => keyOf(pool) === map.key)) map.choose(known.pools.reduce((most, pool) => (shareOf(pool) > shareOf(most) ? pool : most)));
  mark();
}

function poolItem(pool) {
  const parts = ["name", "share", "range", "count"].map((name) => make("span", name));
  const bar = make("span", "bar", make("i", "used"), make("i", "reserved"), make("i", "cooling"));
  bar.setAttribute("aria-hidden", "true");
  const button = make("button", "pool", ...parts, bar);
  button.type = "button";
  const key = keyOf(pool);
  button.addEventListener("click", () => {
    map.choose(known.pools.find((pool) => keyOf(pool) === key));
    mark();
  });
  return make("li", "", button);
}

function fill(button, pool) {
  const [name, share, range, number, bar] = button.children;
  const taken = takenOf(pool);
  const percent = 100 * shareOf(pool);
  name.textContent = name.title = pool.name ?? pool.network;
  share.textContent = `${percent > 0 && percent < 1 ? "<1" : Math.floor(percent)} %`;
  share.className = `share${percent >= 95 ? " full" : percent >= 80 ? " high" : ""}`;
  range.textContent = rangeOf(pool);
  number.textContent = `${count(taken)} of ${count(pool.size)}`;
  const more = [];
  for (const [part, words] of [["used", "used"], ["reserved", "reserved"], ["cooling", "cooling"]]) {
    const width = pool.size ? (100 * pool[part]) / pool.size : 0;
    const piece = bar.querySelector(`.${part}`);
    piece.hidden = pool[part] === 0;
    piece.style.width = `${width}%`;
    if (pool[part]) more.push(`${count(pool[part])} ${words}`);
  }
  more.push(`${count(pool.free)} free`);
  button.title = more.join(", ");
  button.setAttribute("aria-label", `${name.textContent}, ${range.textContent}: ${more.join(", ")}, ${share.textContent} taken`);
}

function mark() {
  for (const item of at("pools").children) {
    item.firstChild?.setAttribute?.("aria-pressed", String(item.dataset.key === map.key));
  }
}

function showNodes(nodes) {
  const rows = nodes.map((node) => {
    const here = node.here ? " (this host)" : "";
    const cells = [(node.node || "(no name)") + here, count(node.leases), node.networks.join(", "), clock(node.latest)];
    return make("tr", "", ...cells.map((text) => make("td", "", text)));
  });
  if (rows.length === 0) {
    const cell = make("td", "empty", "No node has a lease yet.");
    cell.colSpan = 4;
    rows.push(make("tr", "", cell));
  }
  at("nodes").tBodies[0].replaceChildren(...rows);
}

function showProblems({ problems, looked }) {
  const errors = problems.filter((problem) => problem.level === "error").length;
  const chip = at("health");
  chip.textContent = problems.length ? plural(problems.length, "problem") : "no problem";
  chip.className = `chip ${errors ? "error" : problems.length ? "warning" : "good"}`;
  at("looked").textContent = looked ? `looked ${clock(looked)} UTC` : "";
  const items = problems.map((problem) => {
    const level = make("span", "level", problem.level === "error" ? "Error: " : "Warning: ");
    const item = make("li", problem.level, make("p", "", level, problem.what));
    if (problem.remedy) item.append(make("p", "remedy", problem.remedy));
    return item;
  });
  if (items.length === 0) items.push(make("li", "empty", "None found: every record was read, and all agree."));
  at("problems").replaceChildren(...items);
}

// ---- the table of leases ---------------------------------------------------------------------

const byAddress = (a, b) => a.v6 - b.v6 || (a.value < b.value ? -1 : a.value > b.value ? 1 : 0);
const byText = (name) => (a, b) => (a[name] < b[name] ? -1 : a[name] > b[name] ? 1 : 0);
const COLUMNS = [
  { name: "address", title: "Address", by: byAddress },
  { name: "network", title: "Network", by: byText("network") },
  { name: "kind", title: "Kind", by: byText("kind") },
  { name: "holder", title: "Container", by: byText("who") },
  { name: "pod", title: "Pod", by: byText("pod") },
  { name: "node", title: "Node", by: byText("node") },
  { name: "since", title: "Since", by: byText("time") },
];

const table = {
  rows: [],
  column: COLUMNS[0],
  down: false,
  selected: 0,
  words: [],
  all: [], // in this order; typing only filters
  order: "",
  sorted: null,
  pool: new Map(),

  begin() {
    for (const column of COLUMNS) {
      const button = make("button", "", column.title);
      button.type = "button";
      button.addEventListener("click", () => this.sort(column));
      const head = make("div", column.name, button);
      head.setAttribute("role", "columnheader");
      at("columns").append(head);
    }
    const scroller = at("scroller");
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    scroller.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(scroller);
    at("search").addEventListener("input", () => this.refresh());
    this.heads();
  },

  sort(column) {
    this.down = this.column === column && !this.down;
    this.column = column;
    this.heads();
    this.refresh();
  },

  heads() {
    [...at("columns").children].forEach((head, i) => {
      const here = COLUMNS[i] === this.column;
      head.setAttribute("aria-sort", here ? (this.down ? "descending" : "ascending") : "none");
    });
  },

  /** Every word must be in one of the fields. */
  matches(row) {
    row.text ??= [row.address, row.network, row.kind, row.containerID, row.id, row.endpoint, row.pod, row.node, row.ifname,
      row.mac, row.pool, row.note, row.holder].join("\n").toLowerCase();
    return this.words.every((word) => row.text.includes(word));
  },

  refresh() {
    this.words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const order = `${this.column.name} ${this.down}`;
    if (this.order !== order || this.sorted !== known.leases) {
      const { by } = this.column;
      const sign = this.down ? -1 : 1;
      this.all = [...known.leases].sort((a, b) => sign * (by(a, b) || byAddress(a, b)));
      Object.assign(this, { order, sorted: known.leases });
    }
    this.rows = this.words.length ? this.all.filter((row) => this.matches(row)) : this.all;
    this.selected = Math.min(this.selected, Math.max(0, this.rows.length - 1));
    const all = known.leases.length;
    const shown = this.words.length ? `${count(this.rows.length)} of ${plural(all, "lease")}` : plural(all, "lease");
    at("shown").textContent = known.more > 0 ? `${shown}; ${count(known.more)} more are not loaded` : shown;
    at("grid").setAttribute("aria-rowcount", this.rows.length + 1);
    at("columns").setAttribute("aria-rowindex", 1);
    this.empty();
    this.draw();
    map.draw();
  },

  empty() {
    const empty = at("leases-empty");
    empty.hidden = this.rows.length > 0;
    if (known.leases.length > 0) {
      empty.textContent = "No lease matches. Esc clears the search.";
    } else {
      empty.replaceChildren("No lease yet: one appears with the first container. Try ",
        make("code", "", "sublet list"), " on the host, and look at the problems below if you expected one.");
    }
  },

  height() {
    return parseFloat(getComputedStyle(root).getPropertyValue("--row"));
  },

  draw() {
    const scroller = at("scroller");
    const body = at("rows");
    const height = this.height();
    body.style.height = `${this.rows.length * height}px`;
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - 6);
    const last = Math.min(this.rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + 6);
    const wide = this.rows.slice(first, last).some((row) => row.v6);
    const old = this.pool;
    this.pool = new Map();
    for (let index = first; index < last; index += 1) {
      const row = this.rows[index];
      const element = old.get(row) ?? this.element(row);
      old.delete(row);
      this.pool.set(row, element);
      element.classList.toggle("wide-address", wide);
      element.style.transform = `translateY(${index * height}px)`;
      element.id = `row-${index}`;
      element.setAttribute("aria-rowindex", index + 2);
      element.setAttribute("aria-selected", String(index === this.selected));
      if (!element.isConnected) body.append(element);
    }
    old.forEach((element) => element.remove());
    at("columns").classList.toggle("wide-address", wide);
    if (this.rows.length) scroller.setAttribute("aria-activedescendant", `row-${this.selected}`);
    else scroller.removeAttribute("aria-activedescendant");
  },

  element(row) {
    const texts = {
      address: `${row.address}/${row.prefix}`, network: row.network, kind: row.kind,
      holder: row.ifname ? `${brief(row)} ${row.ifname}` : brief(row), pod: row.pod, node: row.node, since: clock(row.time).slice(0, 16),
    };
    const element = make("div", "row");
    element.setAttribute("role", "row");
    for (const { name } of COLUMNS) {
      const cell = make("div", name, texts[name] ?? "");
      cell.setAttribute("role", "gridcell");
      cell.title = name === "holder" ? [row.who, row.ifname].filter(Boolean).join(" ") : cell.textContent;
      element.append(cell);
    }
    element.addEventListener("click", () => {
      this.selected = this.rows.indexOf(row);
      this.draw();
      panel.open(row.address);
    });
    return element;
  },

  key(event) {
    const page = Math.max(1, Math.floor(at("scroller").clientHeight / this.height()) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.ctrlKey || event.metaKey || event.altKey || this.rows.length === 0) return;
    if (event.key === "Enter" || event.key === " ") {
      panel.open(this.rows[this.selected].address);
    } else if (event.key in steps) {
      this.selected = Math.min(this.rows.length - 1, Math.max(0, this.selected + steps[event.key]));
      this.reveal();
    } else {
      return;
    }
    event.preventDefault();
  },

  reveal() {
    const scroller = at("scroller");
    const height = this.height();
    const top = this.selected * height;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + height - scroller.clientHeight;
    this.draw();
  },
};

// ---- the map ---------------------------------------------------------------------------------

/** The place of cell `d` on a Hilbert curve over a square of `side`. */
function hilbert(side, d) {
  let [x, y] = [0, 0];
  for (let s = 1; s < side; s *= 2) {
    const rx = 1 & (d / 2);
    const ry = 1 & (d ^ rx);
    if (ry === 0) {
      if (rx === 1) [x, y] = [s - 1 - x, s - 1 - y];
      [x, y] = [y, x];
    }
    x += s * rx;
    y += s * ry;
    d = Math.floor(d / 4);
  }
  return [x, y];
}

/** Where each of 2^bits cells is: {columns, rows, place: cell -> index, cell: index -> cell}. */
function layout(bits, rowwise) {
  const columns = 2 ** Math.ceil(bits / 2);
  const rows = 2 ** Math.floor(bits / 2);
  const place = new Uint32Array(columns * rows);
  const cell = new Uint32Array(columns * rows);
  for (let d = 0; d < place.length; d += 1) {
    let [x, y] = [d % columns, Math.floor(d / columns)];
    if (!rowwise) {
      // Not a square: two of them side by side.
      const square = rows * rows;
      [x, y] = hilbert(rows, d % square);
      x += rows * Math.floor(d / square);
    }
    place[d] = y * columns + x;
    cell[y * columns + x] = d;
  }
  return { columns, rows, place, cell };
}

const MOST = 16; // at most 2^16 cells
const css = (rgb, alpha = 1) => `rgb(${rgb.join(" ")} / ${alpha})`;

const map = {
  key: null, pool: null, views: [], cursor: 0, over: null, rowwise: false, layouts: new Map(), taken: [],

  begin() {
    const canvas = at("map");
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("click", (event) => {
      this.cursor = this.under(event);
      this.enter();
    });
    canvas.addEventListener("keydown", (event) => this.press(event));
    canvas.addEventListener("focus", () => this.point());
    canvas.addEventListener("blur", () => this.point());
    at("zoom-in").addEventListener("click", () => this.enter(true));
    at("zoom-out").addEventListener("click", () => this.out());
    at("order").addEventListener("click", () => {
      this.rowwise = !this.rowwise;
      at("order").setAttribute("aria-pressed", String(this.rowwise));
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(at("board"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  },

  get view() { return this.views.at(-1); },

  /** How many bits an address of the view has, a cell has, and the cells are. */
  get sizes() {
    const bits = this.view.bits;
    const cells = Math.min(bits, MOST);
    return { bits, cells, shift: BigInt(bits - cells) };
  },

  choose(pool) {
    this.key = keyOf(pool);
    this.views = [];
    this.cursor = 0;
    this.refresh();
  },

  refresh() {
    this.pool = known.pools.find((pool) => keyOf(pool) === this.key) ?? null;
    const empty = this.pool === null;
    at("map").hidden = at("legend").hidden = at("cell").hidden = at("map-help").hidden = empty;
    at("map-empty").hidden = !empty;
    at("map-empty").textContent = "There is a picture here once there is a pool.";
    for (const id of ["zoom-in", "zoom-out", "order"]) at(id).disabled = empty;
    if (empty) {
      at("crumbs").replaceChildren();
      return;
    }
    this.gather();
    if (this.views.length === 0) {
      this.views = [this.around(this.first, this.last)];
      // A wide prefix with little in it: begin where something is.
      const held = this.taken.filter((row) => row.kind !== "gateway");
      if (this.view.bits > MOST && held.length) {
        const close = this.around(held[0].value, held.at(-1).value);
        if (close.bits < this.view.bits) this.views.push(close);
      }
    }
    this.crumbs();
    this.draw();
  },

  /** The smallest prefix around both, of at least 16 addresses where there are as many. */
  around(first, last) {
    const bits = Math.max(span(first, last), Math.min(4, this.v6 ? 128 : 32));
    return { base: (first >> BigInt(bits)) << BigInt(bits), bits };
  },

  /** All that is taken between the ends of the pool, by address. */
  gather() {
    const { pool } = this;
    const first = parse(pool.first);
    this.v6 = first.v6;
    this.first = first.value;
    this.last = parse(pool.last).value;
    this.gives = pool.gives.map((ends) => ends.map((end) => parse(end).value));
    const inside = (row) => row.v6 === this.v6 && row.value >= this.first && row.value <= this.last;
    const cooling = known.cooling.filter((row) => row.set === pool.set).map((row) => ({ ...row, v6: row.address.includes(":"), kind: "cooling" }));
    this.taken = [...(known.sets.get(pool.set) ?? []), ...cooling].filter(inside);
    if (cooling.length) this.taken.sort(byAddress);
  },

  prefix({ base, bits }) {
    return `${show(base, this.v6)}/${(this.v6 ? 128 : 32) - bits}`;
  },

  crumbs() {
    const items = this.views.map((view, i) => {
      if (i === this.views.length - 1) {
        const here = make("span", "", this.prefix(view));
        here.setAttribute("aria-current", "location");
        return make("li", "", here);
      }
      const button = make("button", "", this.prefix(view));
      button.type = "button";
      button.addEventListener("click", () => this.out(this.views.length - 1 - i));
      return make("li", "", button);
    });
    at("crumbs").replaceChildren(...items);
    at("map-title").textContent = `Addresses of ${this.pool.name ?? this.pool.network}`;
    at("zoom-out").disabled = this.views.length < 2;
  },

  /** Index of the first taken address that is not below `value`. */
  behind(value) {
    let [low, high] = [0, this.taken.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.taken[middle].value < value) low = middle + 1;
      else high = middle;
    }
    return low;
  },

  /** The taken addresses of a prefix. */
  within({ base, bits }) {
    return this.taken.slice(this.behind(base), this.behind(base + (1n << BigInt(bits))));
  },

  stateOf(row) {
    if (row.kind === "reserved" || row.kind === "aux") return STATE.reserved;
    if (row.kind === "gateway") return STATE.gateway;
    return row.kind === "cooling" ? STATE.cooling : STATE.used;
  },

  /** Of each cell its state, and how full it is (0 to 1; where it is many addresses). */
  states() {
    const { cells, shift } = this.sizes;
    const { base } = this.view;
    const size = 2 ** cells;
    const state = new Uint8Array(size).fill(STATE.outside);
    const share = new Float32Array(size);
    for (const [first, last] of this.gives) {
      const from = (first > base ? first - base : 0n) >> shift;
      const to = last >= base ? (last - base) >> shift : -1n;
      if (from < BigInt(size) && to >= from) state.fill(STATE.free, Number(from), Math.min(size, Number(to) + 1));
    }
    const all = Math.min(Number(1n << shift), 1e9);
    const dim = new Uint8Array(size);
    for (const row of this.within(this.view)) {
      const cell = Number((row.value - base) >> shift);
      const now = this.stateOf(row);
      if (shift === 0n || now === STATE.used || state[cell] !== STATE.used) state[cell] = now;
      share[cell] += 1 / all;
      if (table.words.length && (row.kind === "cooling" || !table.matches(row))) dim[cell] = Math.max(dim[cell], 1);
      else dim[cell] = 2;
    }
    return { state, share, dim };
  },

  colours() {
    const rgb = (value) => value.match(/[\d.]+/g).slice(0, 3).map(Number);
    const probe = make("i");
    document.body.append(probe);
    const found = {};
    for (const name of [...NAMES, "card", "line", "text", "focus"]) {
      probe.style.color = `var(--${name})`;
      found[name] = rgb(getComputedStyle(probe).color);
    }
    probe.remove();
    return found;
  },

  get plan() {
    const { cells } = this.sizes;
    const key = `${cells}${this.rowwise}`;
    if (!this.layouts.has(key)) this.layouts.set(key, layout(cells, this.rowwise));
    return this.layouts.get(key);
  },

  /** Draws what is known, then what is pointed at. */
  draw() {
    const canvas = at("map");
    if (!this.pool || !this.view || canvas.clientWidth === 0) return;
    const { columns, rows, place } = this.plan;
    canvas.style.aspectRatio = `${columns} / ${rows}`;
    const pixels = canvas.clientWidth * (window.devicePixelRatio || 1);
    const size = Math.max(1, Math.round(pixels / columns));
    const ink = this.colours();
    const { state, share, dim } = this.states();
    const { shift, cells } = this.sizes;
    const blend = (from, to, part) => from.map((value, i) => Math.round(value + (to[i] - value) * part));
    const colour = (cell) => {
      const name = NAMES[state[cell]];
      let rgb = ink[name];
      if (shift > 0n && name !== "free" && name !== "outside") rgb = blend(ink.free, rgb, 0.3 + 0.7 * Math.min(1, share[cell]));
      return dim[cell] === 1 ? blend(rgb, ink.free, 0.75) : rgb;
    };
    // One pixel a cell, enlarged: many cells are drawn as fast as few.
    const small = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    for (let cell = 0; cell < place.length; cell += 1) image.data.set([...colour(cell), 255], place[cell] * 4);
    small.getContext("2d").putImageData(image, 0, 0);
    this.base = new OffscreenCanvas(columns * size, rows * size);
    const context = this.base.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, this.base.width, this.base.height);
    if (size >= 8) {
      const gap = Math.max(1, Math.round(size / 14));
      context.fillStyle = css(ink.card);
      for (let x = 1; x <= columns; x += 1) context.fillRect(x * size - gap, 0, gap, rows * size);
      for (let y = 1; y <= rows; y += 1) context.fillRect(0, y * size - gap, columns * size, gap);
      for (let cell = 0; shift === 0n && cell < place.length; cell += 1) {
        const [x, y] = [(place[cell] % columns) * size, Math.floor(place[cell] / columns) * size];
        this.pattern(context, state[cell], x, y, size - gap, css(ink.card, 0.75), css(ink.line));
      }
    }
    this.lines(context, cells, size, columns, rows, css(ink.card, 0.55));
    [canvas.width, canvas.height] = [this.base.width, this.base.height];
    Object.assign(this, { size, ink });
    this.point();
  },

  /** Shows what is pointed at, over what was drawn. */
  point() {
    const canvas = at("map");
    if (!this.base || !this.pool) return;
    const context = canvas.getContext("2d");
    const focused = document.activeElement === canvas;
    context.drawImage(this.base, 0, 0);
    if (focused) this.frame(context, this.cursor, css(this.ink.text), Math.max(2, this.size / 10));
    if (this.over !== null && this.over !== this.cursor) this.frame(context, this.over, css(this.ink.text, 0.7), 2);
    at("zoom-in").disabled = this.sizes.bits <= 4;
    this.tell(focused || this.over === null ? this.cursor : this.over);
  },

  /** What tells states apart without colours. */
  pattern(context, state, x, y, size, light, line) {
    context.fillStyle = light;
    context.strokeStyle = state === STATE.outside ? line : light;
    context.lineWidth = Math.max(1, size / 12);
    context.beginPath();
    if (state === STATE.reserved || state === STATE.outside) {
      context.moveTo(x, y + size);
      context.lineTo(x + size, y);
    } else if (state === STATE.cooling) {
      context.moveTo(x + size / 2, y);
      context.lineTo(x + size / 2, y + size);
    } else if (state === STATE.gateway) {
      context.rect(x + size * 0.3, y + size * 0.3, size * 0.4, size * 0.4);
      context.fill();
      return;
    }
    context.stroke();
  },

  /** Where blocks of 2^8 cells meet. */
  lines(context, cells, size, columns, rows, style) {
    if (cells <= 8 || this.rowwise) return;
    const block = 16 * size;
    context.strokeStyle = style;
    context.lineWidth = 1;
    context.beginPath();
    for (let x = block; x < columns * size; x += block) { context.moveTo(x + 0.5, 0); context.lineTo(x + 0.5, rows * size); }
    for (let y = block; y < rows * size; y += block) { context.moveTo(0, y + 0.5); context.lineTo(columns * size, y + 0.5); }
    context.stroke();
  },

  frame(context, cell, style, width) {
    const { columns, place } = this.plan;
    const { size } = this;
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect((place[cell] % columns) * size, Math.floor(place[cell] / columns) * size, Math.max(size, 4), Math.max(size, 4));
  },

  under(event) {
    const { columns, rows, cell } = this.plan;
    const box = at("map").getBoundingClientRect();
    const bound = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
    const x = bound(((event.clientX - box.left) / box.width) * columns, columns);
    const y = bound(((event.clientY - box.top) / box.height) * rows, rows);
    return cell[y * columns + x];
  },

  /** The prefix that a cell stands for. */
  block(cell) {
    const { shift } = this.sizes;
    return { base: this.view.base + (BigInt(cell) << shift), bits: Number(shift) };
  },

  /** The prefix that is shown after zooming in on a cell. */
  next(cell) {
    const { bits } = this.sizes;
    const next = bits > MOST + 4 ? bits - 8 : bits > 12 ? bits - 4 : bits > 8 ? 8 : 4;
    const { base } = this.block(cell);
    return { base: (base >> BigInt(next)) << BigInt(next), bits: next };
  },

  describe(cell) {
    const block = this.block(cell);
    const rows = this.within(block);
    if (block.bits > 0) {
      const size = 2 ** block.bits;
      return `${this.prefix(block)}: ${count(rows.length)} of ${count(size)} taken`;
    }
    const name = show(block.base, this.v6);
    const row = rows[0];
    if (row?.kind === "cooling") return `${name}: cooling, free again ${clock(row.until)} UTC`;
    if (row) {
      const who = row.pod || [brief(row), row.ifname].filter(Boolean).join(" ");
      return [`${name}: ${row.kind}`, who, row.node && `on ${row.node}`, row.time && `since ${clock(row.time)}`].filter(Boolean).join(", ");
    }
    if (block.base < this.first || block.base > this.last) return `${name}: outside the range`;
    const given = this.gives.some(([first, last]) => block.base >= first && block.base <= last);
    return `${name}: ${given ? "free" : "not given out (gateway or excluded)"}`;
  },

  tell(cell) {
    const text = this.describe(cell);
    if (at("cell").textContent !== text) at("cell").textContent = text;
    return text;
  },

  hover(event) {
    const cell = this.under(event);
    const tip = at("tip");
    if (cell !== this.over) {
      this.over = cell;
      requestAnimationFrame(() => this.point());
    }
    let text = this.describe(cell);
    if (this.sizes.bits > 8) {
      const next = this.next(cell);
      text += `\nclick: ${this.prefix(next)}, ${count(this.within(next).length)} of ${count(2 ** next.bits)} taken`;
    }
    tip.textContent = text;
    tip.hidden = false;
    const board = at("board").getBoundingClientRect();
    const x = event.clientX - board.left;
    const y = event.clientY - board.top;
    tip.style.left = `${Math.max(0, Math.min(x + 14, board.width - tip.offsetWidth))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > board.height ? y - tip.offsetHeight - 8 : y + 18}px`;
  },

  leave() {
    this.over = null;
    at("tip").hidden = true;
    this.point();
  },

  /** Zooms in at the cursor; where single addresses are large enough, shows one. */
  enter(zoom = false) {
    const { bits, shift } = this.sizes;
    if (bits <= 8 && !(zoom && bits > 4)) {
      if (!zoom && shift === 0n) panel.open(show(this.block(this.cursor).base, this.v6));
      return;
    }
    const { base } = this.block(this.cursor);
    this.views.push(this.next(this.cursor));
    this.cursor = Number((base - this.view.base) >> this.sizes.shift);
    this.leave();
    this.crumbs();
    this.draw();
  },

  out(levels = 1) {
    if (this.views.length < 2) return;
    const { base } = this.block(this.cursor);
    this.views.splice(-Math.min(levels, this.views.length - 1));
    this.cursor = Number((base - this.view.base) >> this.sizes.shift);
    this.crumbs();
    this.draw();
  },

  press(event) {
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.ctrlKey || event.metaKey || event.altKey || !this.pool) return;
    if (event.key in steps) {
      const { columns, rows, place, cell } = this.plan;
      const [dx, dy] = steps[event.key];
      const x = Math.min(columns - 1, Math.max(0, (place[this.cursor] % columns) + dx));
      const y = Math.min(rows - 1, Math.max(0, Math.floor(place[this.cursor] / columns) + dy));
      this.cursor = cell[y * columns + x];
      this.point();
    } else if (event.key === "Enter" || event.key === " ") this.enter();
    else if (event.key === "+") this.enter(true);
    else if (event.key === "Backspace" || event.key === "-") this.out();
    else if (event.key === "Home") { this.cursor = 0; this.point(); }
    else if (event.key === "End") { this.cursor = this.plan.cell.length - 1; this.point(); }
    else return;
    event.preventDefault();
  },
};

// ---- one address -----------------------------------------------------------------------------

const WORDS = {
  added: "leased", "taken-over": "taken over from host-local", imported: "imported", reserved: "reserved",
  deleted: "freed", undone: "freed: nobody took the answer", collected: "freed by the runtime's GC",
  lost: "freed: its container is gone", released: "freed by an operator", unreserved: "no longer reserved",
  swept: "freed: Docker does not know it", "pool-released": "freed with its pool",
  "boot-ended": "ended with its boot", "node-released": "freed with its node",
};

const panel = {
  begin() {
    at("close").addEventListener("click", () => at("panel").close());
    at("panel").addEventListener("click", (event) => {
      if (event.target === at("panel") && event.offsetX < 0) at("panel").close();
    });
  },

  async open(address) {
    at("panel-title").textContent = address;
    at("holder").replaceChildren();
    at("events").replaceChildren(make("li", "empty", "loading\u2026"));
    if (!at("panel").open) at("panel").showModal();
    try {
      this.show(await (await get(`api/v1/history/${encodeURIComponent(address)}`)).json());
    } catch (error) {
      at("events").replaceChildren(make("li", "empty", error.message));
    }
  },

  who(fact) {
    const pod = fact.podName ? `pod ${fact.podNamespace}/${fact.podName}` : "";
    const container = fact.containerID ? `container ${fact.containerID}${fact.ifname ? ` (${fact.ifname})` : ""}` : "";
    return [pod, container, fact.id && `id ${fact.id}`, fact.endpoint, fact.note].filter(Boolean).join(", ");
  },

  show({ leases, events }) {
    at("holder").replaceChildren(...leases.map((row) => {
      const facts = [
        ["network", row.network], ["kind", row.kind], ["container", row.containerID], ["interface", row.ifname], ["id", row.id],
        ["pod", row.podName && `${row.podNamespace}/${row.podName}`], ["endpoint", row.endpoint], ["pool", row.pool], ["MAC", row.mac],
        ["note", row.note], ["for", row.holder], ["netns", row.netns], ["node", row.node], ["since", `${clock(row.time)} UTC`],
      ];
      return make("dl", "", ...facts.filter(([, text]) => text).flatMap(([name, text]) => [make("dt", "", name), make("dd", "", text)]));
    }));
    if (leases.length === 0) at("holder").replaceChildren(make("p", "empty", "Nobody holds it now."));
    const items = events.map((event) => {
      const time = make("time", "", `${clock(event.time)} UTC`);
      time.dateTime = event.time;
      const what = make("p", "", make("strong", "", WORDS[event.event] ?? event.event), ` on ${event.network}`);
      const who = make("p", "dim", [this.who(event), event.node && `on ${event.node}`, `by ${event.face}`].filter(Boolean).join(", "));
      return make("li", event.gives ? "gives" : "", time, what, who);
    });
    if (items.length === 0) items.push(make("li", "empty", "Nothing is remembered of it."));
    at("events").replaceChildren(...items);
  },
};

// ---- the page --------------------------------------------------------------------------------

/** Kept in memory alone: the page stores nothing. */
function beginTheme() {
  const words = ["auto", "light", "dark"];
  let chosen = 0;
  at("theme").addEventListener("click", () => {
    chosen = (chosen + 1) % words.length;
    root.dataset.theme = words[chosen];
    at("theme").textContent = `Theme: ${words[chosen]}`;
    at("theme").setAttribute("aria-label", `Theme: ${chosen ? words[chosen] : "as the system"}`);
    map.draw();
  });
}

function beginKeys() {
  document.addEventListener("keydown", (event) => {
    const search = at("search");
    if (event.key === "/" && document.activeElement !== search && !at("panel").open) {
      search.focus();
      search.select();
      event.preventDefault();
    } else if (event.key === "Escape" && document.activeElement === search) {
      search.value = "";
      table.refresh();
    } else if ((event.key === "ArrowDown" || event.key === "Enter") && document.activeElement === search) {
      at("scroller").focus();
      event.preventDefault();
    }
  });
}

async function follow() {
  if (!document.hidden) await look();
  setTimeout(follow, POLL);
}

beginTheme();
beginKeys();
table.begin();
map.begin();
panel.begin();
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
follow();
