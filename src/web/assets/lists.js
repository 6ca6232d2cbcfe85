// The status page. It reads the JSON API beside it and changes nothing. What comes from there is
// put on the page as text, never as markup.
//
// The first part: what is known, and its lists. The others, map.js and page.js, follow it in one module.

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
    for (const pool of known.pools) pool.set ??= pool.network;
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
    const cells = [(node.node || "(no name)") + here, count(node.leases), Object.keys(node.networks).join(", "), clock(node.lastLease)];
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
    const item = make("li", problem.level, make("p", "", level, `${problem.place}: ${problem.what}`));
    item.append(make("p", "advice", problem.advice));
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

