// Loads the leases and shows them in a table.

// ---- the loaded data -------------------------------------------------------------------------

const RELOAD = 15000; // milliseconds between two loads if there are many leases
const MANY = 10000;
const MOST = 70000; // how many leases the page loads; if there are more, the server searches them

const known = {
  stores: [], pools: [], trends: new Map(), leases: [], cooling: [], sets: new Map(), version: null, loaded: 0, more: 0,
};

class Unanswered extends Error {}

async function request(path) {
  const { store } = route.now;
  const more = store ? `${path.includes("?") ? "&" : "?"}store=${encodeURIComponent(store)}` : "";
  let answer;
  try {
    answer = await fetch(`api/v1/${path}${more}`, { cache: "no-store" });
  } catch {
    throw new Unanswered("subletd does not respond; this page shows the last data that subletd reported");
  }
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({}));
    throw new Unanswered(error ?? `${path}: status ${answer.status}`);
  }
  return answer;
}

const get = async (path) => (await request(path)).json();

/** Adds the fields that the page computes to a lease: address as a number, holder and pod. */
function lease(row) {
  const { v6, value } = parse(row.address);
  row.set ??= row.network;
  row.v6 = v6;
  row.value = value;
  row.who = row.id || row.endpoint || row.holder || row.containerID || row.note || "";
  row.pod = row.podName ? `${row.podNamespace}/${row.podName}` : "";
  return row;
}

/** Returns the holder of a lease. Container IDs are shortened to 12 characters. */
const brief = (row) => (row.who === row.containerID ? row.who.slice(0, 12) : row.who);

/** Loads the rows of a list, page by page, so that parsing a long response does not freeze the page. */
async function pages(query, name, convert) {
  const rows = [];
  let size = 0;
  for (let answer = await request(query); ;) {
    // Load the next page while this page is parsed.
    const after = rows.length + size < MOST && answer.headers.get("Sublet-Next");
    const following = after ? request(`${query}&after=${after}`) : null;
    following?.catch(() => {});
    const page = await answer.json();
    size = page[name].length;
    for (const row of page[name]) rows.push(convert(row));
    if (!following) return { rows, version: page.version };
    answer = await following;
  }
}

/** Loads the leases and the cooling addresses. */
function lists() {
  return Promise.all([
    pages("leases?limit=10000", "leases", lease),
    pages("cooling?limit=10000", "cooling", (row) => ({ ...row, ...parse(row.address), kind: "cooling" })),
  ]);
}

/**
 * Updates the leases if they have changed. Uses the promise `loading` if a load is already in progress. If
 * there are many leases, loads them at most every RELOAD milliseconds.
 */
async function load(status, loading) {
  const version = status.leasesVersion + status.coolingVersion;
  const may = known.version === null || status.leases < MANY || Date.now() - known.loaded > RELOAD;
  if (known.version === version || !may) return;
  const [leases, cooling] = await (loading ?? lists());
  known.leases = leases.rows;
  known.cooling = cooling.rows;
  known.sets = Map.groupBy(known.leases, (row) => row.set);
  known.sets.forEach((rows) => rows.sort(byAddress));
  known.more = status.leases - known.leases.length;
  known.loaded = Date.now();
  known.version = leases.version + cooling.version;
  table.refresh();
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
  all: [], // all leases, sorted in this order; a search only filters them
  order: "",
  sorted: null,
  drawn: new Map(),
  remote: null, // the server's search result, if not all leases are loaded

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
    at("search").addEventListener("input", () => route.go({ q: at("search").value.trim() }, false));
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

  /** Returns whether each search word occurs in some field of a lease. */
  matches(row) {
    row.text ??= [row.address, row.network, row.kind, row.containerID, row.id, row.endpoint, row.pod, row.node, row.ifname,
      row.mac, row.pool, row.note, row.holder].join("\n").toLowerCase();
    return this.words.every((word) => row.text.includes(word));
  },

  refresh() {
    const { q = "" } = route.now;
    this.words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const order = `${this.column.name} ${this.down}`;
    if (this.order !== order || this.sorted !== known.leases) {
      const { by } = this.column;
      const sign = this.down ? -1 : 1;
      this.all = [...known.leases].sort((a, b) => sign * (by(a, b) || byAddress(a, b)));
      Object.assign(this, { order, sorted: known.leases });
    }
    const pool = chosen();
    const ends = pool && [parse(pool.first), parse(pool.last)];
    const inside = (row) => !pool || (row.set === pool.set && row.v6 === ends[0].v6
      && row.value >= ends[0].value && row.value <= ends[1].value);
    const filters = pool || this.words.length;
    this.rows = filters ? this.all.filter((row) => inside(row) && this.matches(row)) : this.all;
    const total = known.leases.length + known.more;
    let shown = filters ? `${count(this.rows.length)} of ${plural(total, "lease")}` : plural(total, "lease");
    if (known.more > 0) shown = filters ? this.ask(pool) ?? shown : `the first ${count(known.leases.length)} of ${shown}`;
    at("shown").textContent = known.version === null ? "" : shown;
    at("of").hidden = !pool;
    at("of").firstChild.textContent = pool ? `${nameOf(pool)} ${rangeOf(pool)} ` : "";
    this.selected = Math.min(this.selected, Math.max(0, this.rows.length - 1));
    at("scroller").setAttribute("aria-rowcount", this.rows.length + 1);
    this.empty();
    this.draw();
    map.draw();
  },

  /** Lets the server search, 300 ms after the last key press. Returns the text to show above the table. */
  ask(pool) {
    const query = new URLSearchParams({ limit: 1000, q: this.words.join(" "), ...(pool && { network: pool.network }) });
    const key = `${query} ${known.version}`;
    if (this.remote?.key === key) {
      this.rows = this.remote.rows ?? this.rows;
      return this.remote.shown;
    }
    const remote = { key, shown: "searching\u2026" };
    this.remote = remote;
    setTimeout(async () => {
      if (this.remote !== remote) return;
      try {
        const page = await get(`leases?${query}`);
        remote.rows = page.leases.map(lease);
        const first = page.next ? "the first " : "";
        remote.shown = `${first}${count(remote.rows.length)} of ${plural(page.total, "lease")}`;
      } catch (error) {
        remote.shown = error.message;
      }
      if (this.remote === remote) this.refresh();
    }, 300);
    return remote.shown;
  },

  empty() {
    const empty = at("leases-empty");
    empty.hidden = this.rows.length > 0;
    // A row group must contain rows, so an empty table must not have this role (WAI-ARIA).
    at("rows").setAttribute("role", empty.hidden ? "rowgroup" : "presentation");
    if (known.version === null) {
      empty.textContent = root.dataset.ready ? "The leases could not be read." : "loading\u2026";
    } else if (known.leases.length > 0) {
      empty.textContent = "No matching lease. Press Esc to clear the search.";
    } else {
      empty.replaceChildren("No leases yet. The first container creates the first lease. If you expected one, run ",
        make("code", "", "sublet list"), " on the host, and look at the problems below.");
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
    const old = this.drawn;
    this.drawn = new Map();
    for (let index = first; index < last; index += 1) {
      const row = this.rows[index];
      const element = old.get(row) ?? this.element(row);
      old.delete(row);
      this.drawn.set(row, element);
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
      holder: row.ifname ? `${brief(row)} ${row.ifname}` : brief(row), pod: row.pod, node: row.node,
    };
    const element = make("div", "row");
    element.setAttribute("role", "row");
    for (const { name } of COLUMNS) {
      const cell = make("div", name, name === "since" ? since(row.time) : texts[name] ?? "");
      cell.setAttribute("role", "gridcell");
      if (name === "holder") cell.title = [row.who, row.ifname].filter(Boolean).join(" ");
      else if (name !== "since") cell.title = cell.textContent;
      element.append(cell);
    }
    element.addEventListener("click", () => {
      this.selected = this.rows.indexOf(row);
      this.draw();
      route.go({ address: row.address });
    });
    return element;
  },

  key(event) {
    const page = Math.max(1, Math.floor(at("scroller").clientHeight / this.height()) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.ctrlKey || event.metaKey || event.altKey || this.rows.length === 0) return;
    if (event.key === "Enter" || event.key === " ") {
      route.go({ address: this.rows[this.selected].address });
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
    const bottom = top + height + at("columns").offsetHeight; // the column heads cover the top of the table
    if (bottom > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = bottom - scroller.clientHeight;
    this.draw();
  },
};

