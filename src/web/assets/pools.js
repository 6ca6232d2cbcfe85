// The problems that need attention, the pools and their last day, and the tables of nodes and problems.

// ---- what needs attention --------------------------------------------------------------------

/** Loads the states of this host's stores. If there is only one store, loads them only once. */
async function loadStores() {
  if (known.stores.length !== 1) known.stores = (await get("stores")).stores;
}

/** Returns the most urgent problem of each store that the page does not show. */
function elsewhere(status) {
  const others = known.stores.filter(({ store, attention }) => store !== status.store && attention.length);
  return others.map(({ store, attention: [worst, ...more] }) => (
    { ...worst, network: undefined, store, text: `${store}: ${worst.text}${more.length ? `, and ${more.length} more` : ""}` }
  ));
}

/** Shows the problems that need attention as links. The line is green only if everything was checked. */
function showState(status) {
  const attention = [...status.attention, ...elsewhere(status)].sort((a, b) => (b.level === "error") - (a.level === "error"));
  const state = attention[0]?.level ?? status.state;
  const line = at("state");
  line.className = state;
  const link = (item) => {
    const link = make("a", item.level, item.text);
    if (item.advice) link.title = item.advice;
    if (item.store) {
      link.href = `?${new URLSearchParams({ store: item.store })}`;
      return link;
    }
    if (item.network) return route.link(link, { network: item.network, range: item.first, at: "" });
    link.href = "#problems-section";
    return link;
  };
  const few = attention.slice(0, 6).map((item) => make("li", "", link(item)));
  if (attention.length > 6) few.push(make("li", "", `and ${attention.length - 6} more`));
  const checked = status.looked ? [" Checked ", since(status.looked), "."] : [];
  const words = {
    ok: [`Nothing needs attention: ${plural(status.leases ?? 0, "lease")} in ${plural(known.pools.length, "range")}.`, ...checked],
    unknown: ["The first check has not finished yet."],
  }[state] ?? [make("strong", "", "Needs attention")];
  line.replaceChildren(make("p", "", ...words), make("ul", "", ...few));
  document.title = `${{ error: "\u2757 ", warning: "\u26a0 " }[state] ?? ""}sublet${status.node ? ` on ${status.node}` : ""}`;
}

function showFacts(status) {
  const isOne = known.stores.length <= 1;
  at("where").textContent = [status.node, isOne && status.store].filter(Boolean).join(" \u00b7 ");
  at("store").hidden = isOne;
  if (!isOne && document.activeElement !== at("store")) {
    at("store").replaceChildren(...known.stores.map(({ store, state }) => {
      const option = make("option", "", `${store}${["error", "warning"].includes(state) ? " \u26a0" : ""}`);
      Object.assign(option, { value: store, selected: store === status.store });
      return option;
    }));
  }
  at("where").title = status.store;
  at("version").textContent = status.version ? `sublet ${status.version}` : "";
}

// ---- pools -----------------------------------------------------------------------------------

const keyOf = (pool) => `${pool.set} ${pool.network} ${pool.first}`;
const nameOf = (pool) => pool.network;
// Do not compute size - free: for a /64, a Number is not precise enough, and the result would be wrong.
const takenOf = (pool) => pool.used + pool.reserved + pool.cooling + (pool.draining ?? 0);
const shareOf = (pool) => (pool.free === 0 ? 1 : pool.size ? takenOf(pool) / pool.size : 1);
const rangeOf = (pool) => pool.subnet ?? `${pool.first}\u2013${pool.last}`;
const levelOf = (pool) => (pool.free === 0 ? "full" : shareOf(pool) >= 0.8 ? "high" : "");
/** Ranks a pool for the list: full pools first, then pools that will be full within a day, then by usage. */
const needOf = (pool) => (pool.fullIn < 86400 && pool.free > 0 ? 0.99 - pool.fullIn / 1e7 : shareOf(pool));
const NOTHING = "No pool yet. A pool appears with the first container of a network whose configuration contains ";

/** Returns the pool that the URL selects. */
function chosen() {
  const { network, range } = route.now;
  const of = known.pools.filter((pool) => pool.network === network);
  return of.find((pool) => pool.first === range) ?? of[0];
}

const neediest = () => known.pools[0];

/** Stores the pools in display order: networks that most need attention first, each with both families. */
function takePools(pools) {
  for (const pool of pools) {
    pool.set ??= pool.network;
    pool.trend = known.trends.get(`${pool.network} ${pool.first}`);
    pool.fullIn = pool.trend?.fullIn;
  }
  const groups = [...Map.groupBy(pools, (pool) => pool.network)].map(([name, of]) => ({
    name, of: of.sort((a, b) => needOf(b) - needOf(a)), need: Math.max(...of.map(needOf)),
  }));
  groups.sort((a, b) => b.need - a.need || (a.name < b.name ? -1 : 1));
  known.pools = groups.flatMap((group) => group.of);
}

function showPools() {
  const list = at("pools");
  at("pools-count").textContent = known.pools.length ? plural(known.pools.length, "range") : "";
  at("filter").hidden = known.pools.length < 6;
  if (known.pools.length === 0) {
    const empty = known.unreadable ? make("li", "empty", known.unreadable)
      : make("li", "empty", NOTHING, make("code", "", '"ipam": {"type": "sublet"}'), ", or with ",
        make("code", "", "docker network create --ipam-driver sublet"), ".");
    list.replaceChildren(empty);
    return;
  }
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (pool) => `${pool.network} ${rangeOf(pool)} ${pool.first} ${pool.last}`.toLowerCase();
  const shown = known.pools.filter((pool) => words.every((word) => text(pool).includes(word)));
  const old = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = shown.map((pool, i) => {
    const key = keyOf(pool);
    const item = old.get(key) ?? poolItem(pool);
    item.dataset.key = key;
    item.className = shown[i - 1]?.network === pool.network ? "more" : "";
    fill(item.firstChild, pool);
    return item;
  });
  if (items.length === 0) items.push(make("li", "empty", "No matching pool."));
  if (items.length !== list.children.length || items.some((item, i) => item !== list.children[i])) {
    list.replaceChildren(...items);
  }
  mark();
}

function poolItem(pool) {
  const parts = ["name", "share", "range", "count"].map((name) => make("span", name));
  const bar = make("span", "bar", make("i", "used"), make("i", "reserved"), make("i", "cooling"));
  bar.setAttribute("aria-hidden", "true");
  const link = make("a", "pool", ...parts, bar);
  return make("li", "", route.link(link, { network: pool.network, range: pool.first, at: "" }));
}

function fill(link, pool) {
  const [name, share, range, number, bar] = link.children;
  const taken = takenOf(pool);
  const percent = 100 * shareOf(pool);
  link.className = `pool ${levelOf(pool)}`;
  name.textContent = name.title = nameOf(pool);
  share.textContent = pool.free === 0 ? "full" : `${percent > 0 && percent < 1 ? "<1" : Math.floor(percent)} %`;
  range.textContent = rangeOf(pool);
  number.textContent = pool.fullIn && pool.free ? `full in about ${about(pool.fullIn)}` : `${count(taken)} of ${count(pool.size)}`;
  const more = [];
  for (const part of ["used", "reserved", "cooling"]) {
    const piece = bar.querySelector(`.${part}`);
    piece.hidden = pool[part] === 0;
    piece.style.width = `${pool.size ? (100 * pool[part]) / pool.size : 0}%`;
    if (pool[part]) more.push(`${count(pool[part])} ${part}`);
  }
  if (pool.draining !== undefined) more.push(`${count(pool.draining)} draining`);
  more.push(`${count(pool.free)} free`);
  link.title = `${more.join(", ")}, of ${count(pool.size)} addresses that can be allocated`;
}

/** Highlights the list entry of the pool that the map shows. */
function mark() {
  for (const item of at("pools").children) {
    const link = item.querySelector("a");
    if (!link) continue;
    link.toggleAttribute("aria-current", item.dataset.key === map.key);
    const pool = known.pools.find((pool) => keyOf(pool) === item.dataset.key);
    if (pool) link.href = route.href({ network: pool.network, range: pool.first, at: "" });
  }
  showTrend(known.pools.find((pool) => keyOf(pool) === map.key));
}

// ---- the last day ----------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

/** Creates an SVG element. */
function draw(tag, attributes, ...content) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

/** Draws a pool's last day: how full the pool was, and how many addresses were allocated and released. */
function showTrend(pool) {
  const trend = pool?.trend;
  at("trend").classList.toggle("none", !trend);
  if (!trend) return;
  const { used, allocated, released } = trend;
  const all = (counts) => counts.reduce((sum, number) => sum + number, 0);
  const levels = used.filter((level) => level !== null);
  const top = Math.max(1, Math.min(pool.size, Math.max(...levels) * 1.25));
  const step = (at) => (at * 480) / used.length;
  const first = used.findIndex((level) => level !== null);
  const line = used.map((level, i) => (level === null ? "" : `${i === first ? "M" : "L"}${step(i + 1)} ${60 - (56 * level) / top}`)).join("");
  const most = Math.max(1, ...allocated, ...released);
  const bars = (counts, y, sign) => counts.map((number, i) => {
    const height = (number * 22) / most;
    return number ? `M${step(i) + 0.5} ${y}v${sign * height}h${480 / used.length - 1}v${-sign * height}z` : "";
  }).join("");
  const place = past.time ? 480 + (480 * (Date.parse(past.time) - Date.now())) / 86400000 : -1;
  const curve = draw("svg", { viewBox: "0 0 480 60", preserveAspectRatio: "none", "aria-hidden": "true", class: levelOf(pool) },
    draw("path", { class: "area", d: `${line}L480 60L${step(first + 1)} 60z` }), draw("path", { class: "line", d: line }),
    ...(place >= 0 ? [draw("path", { class: "moment", d: `M${place} 0V60` })] : []));
  const changes = draw("svg", { viewBox: "0 0 480 48", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("path", { class: "axis", d: "M0 24H480" }), draw("path", { class: "allocated", d: bars(allocated, 23, -1) }),
    draw("path", { class: "released", d: bars(released, 25, 1) }));
  const span = pool.fullIn && pool.free ? `, full in about ${about(pool.fullIn)} at this rate` : "";
  at("trend-title").textContent = `Last day of ${nameOf(pool)}`;
  at("trend-text").textContent = `${count(Math.min(...levels))} to ${count(Math.max(...levels))} in use${span}`;
  at("changes-text").replaceChildren(make("i", "key allocated"), `${count(all(allocated))} allocated`, make("i", "key released"), `${count(all(released))} released`);
  at("levels").replaceChildren(curve);
  at("changes").replaceChildren(changes);
}

async function loadTrends() {
  const { pools } = await get("trends");
  known.trends = new Map(pools.map((trend) => [`${trend.network} ${trend.first}`, trend]));
}

// ---- nodes, namespaces, problems -------------------------------------------------------------

function rows(table, lines, nothing) {
  const body = lines.map((cells) => make("tr", "", ...cells.map((content) => make("td", "", content))));
  if (body.length === 0) {
    const cell = make("td", "empty", nothing);
    cell.colSpan = table.tHead.rows[0].cells.length;
    body.push(make("tr", "", cell));
  }
  table.tBodies[0].replaceChildren(...body);
}

function showNodes({ nodes, namespaces }) {
  const most = [...nodes].sort((a, b) => b.leases - a.leases);
  const search = (q, text) => route.link(make("a", "", text), { q });
  rows(at("nodes"), most.map((node) => [
    node.node ? search(node.node, node.node + (node.here ? " (this host)" : "")) : "(no name)", count(node.leases),
    Object.keys(node.networks).join(", "), since(node.lastLease),
  ]), "No node has a lease yet.");
  rows(at("namespaces"), namespaces.map((row) => [search(`${row.namespace}/`, row.namespace), count(row.used)]),
    "No pod has a lease.");
}

function showProblems({ problems, looked, total }) {
  at("looked").replaceChildren(...(looked ? ["checked ", since(looked)] : []));
  const items = problems.slice(0, 200).map((problem) => {
    const level = make("span", "level", problem.level === "error" ? "Error: " : "Warning: ");
    const item = make("li", problem.level, make("p", "", level, `${problem.place}: ${problem.what}`));
    item.append(make("p", "advice", problem.advice));
    return item;
  });
  if (total > items.length) items.push(make("li", "empty", `and ${count(total - items.length)} more: sublet doctor`));
  if (total === 0) items.push(make("li", "empty", looked ? "No problems found: all records were read, and they are consistent." : "Not checked yet."));
  at("problems").replaceChildren(...items);
}
