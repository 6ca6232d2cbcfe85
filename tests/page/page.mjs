// Tests the status page like a user, in a headless Chromium. Usage: page.mjs SIZE ADDRESS [PICTURES] SIZE
// describes the store of the daemon at ADDRESS. none, hundred, many and million are the number of leases.
// With stores, the daemon has two stores, and the first one is empty. With damage, the store can no longer be
// read. With picture, the script only makes screenshots. Every expectation is an assertion. The script also
// fails if the browser's console shows an error, or if the page sends a request to another host. It prints
// its measurements, one on each line. If PICTURES (a folder) is given, it also saves screenshots there.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const [size, address, pictures] = process.argv.slice(2);
const origin = `http://${address}`;
const MOST_PAINT = 1000; // milliseconds until something is painted
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

/** Opens the page. Records console errors, exceptions and requests to other hosts in `page.faults`. */
async function visit(options = {}, query = "") {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
  const page = await context.newPage();
  page.faults = [];
  page.on("console", (message) => message.type() === "error" && page.faults.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:") page.faults.push(`foreign request: ${url}`);
  });
  // Playwright polls for `data-ready` only every 500 ms, so a script in the page records the exact time.
  await page.addInitScript(() => {
    const seen = () => {
      if (document.documentElement?.dataset.ready) window.readyAt ??= performance.now();
    };
    new MutationObserver(seen).observe(document, { subtree: true, attributes: true });
  });
  const answer = await page.goto(`${origin}/${query}`);
  assert.equal(answer.status(), 200);
  await page.waitForSelector("html[data-ready]", { timeout: 30_000 });
  return page;
}

async function leave(page) {
  assert.deepEqual(page.faults, []);
  assert.deepEqual(await page.context().cookies(), []);
  await page.context().close();
}

const json = async (path) => (await fetch(`${origin}${path}`)).json();

/** Returns all rows of a list of the API, from all its pages. */
async function all(name) {
  const rows = [];
  for (let next = ""; next !== undefined;) {
    const page = await json(`/api/v1/${name}?limit=10000${next && `&after=${encodeURIComponent(next)}`}`);
    rows.push(...page[name]);
    next = page.next;
  }
  return rows;
}

const poolOf = (page, network) => page.locator(`#pools li[data-key^="${network} "] .pool`).first();

/** Asserts that the page violates no accessibility rule of axe-core, not even a minor one. */
async function axe(page, name) {
  await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html)}`), [], name);
  said(`axe, ${name}`, `0 violations, ${passes.length} rules passed`);
}

/** Asserts that nothing on the page visibly moves while the page loads. */
async function shift(page) {
  const moved = await page.evaluate(() => new Promise((resolve) => {
    let sum = 0;
    const take = (list) => list.getEntries().forEach((entry) => { sum += entry.value; });
    new PerformanceObserver(take).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => resolve(sum), 200);
  }));
  assert.ok(moved < 0.05, `layout shift ${moved}`);
  said("layout shift", moved.toFixed(3));
}
const text = (page, selector) => page.locator(selector).innerText();
const said = (name, value) => console.log(`${name}: ${value}`);

/** Waits until `test`, a function that runs in the page, returns true. */
async function until(page, test, argument, timeout = 10_000) {
  const end = Date.now() + timeout;
  while (!(await page.evaluate(test, argument))) {
    assert.ok(Date.now() < end, `still not so: ${test}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

async function paint(page) {
  // The browser may paint a frame after the data has arrived. The entry exists as soon as anything has been
  // painted.
  await until(page, () => performance.getEntriesByName("first-contentful-paint").length > 0);
  const [first, loaded] = await page.evaluate(() => [
    performance.getEntriesByName("first-contentful-paint")[0].startTime,
    window.readyAt,
  ]);
  assert.ok(first < MOST_PAINT, `first paint after ${first} ms`);
  said("first paint", `${Math.round(first)} ms`);
  return loaded;
}

/** Tests that the headers forbid foreign content, that no cookie is set, and that POST is refused. */
async function headers() {
  const answer = await fetch(`${origin}/`);
  const policy = answer.headers.get("content-security-policy");
  for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"]) assert.ok(policy.includes(part), policy);
  assert.ok(!policy.includes("unsafe"), policy);
  assert.equal(answer.headers.get("set-cookie"), null);
  assert.equal((await fetch(`${origin}/`, { method: "POST" })).status, 405);
}

async function empty() {
  const page = await visit();
  await paint(page);
  assert.match(await text(page, "#pools"), /No pool yet/);
  assert.match(await text(page, "#leases-empty"), /No leases yet/);
  assert.match(await text(page, "#problems"), /No problems found/);
  assert.match(await text(page, "#map-empty"), /when the first pool exists/);
  await until(page, () => document.querySelector("#state").className === "ok");
  await axe(page, "empty");
  await leave(page);
}

async function pools(page) {
  const { pools } = await json("/api/v1/pools");
  assert.equal(await page.locator("#pools .pool").count(), pools.length);
  for (const pool of pools) {
    const link = page.locator(`#pools li[data-key="${pool.set ?? pool.network} ${pool.network} ${pool.first}"] .pool`);
    const free = `${pool.free.toLocaleString("en")} free`;
    const title = await link.getAttribute("title");
    assert.ok(title.includes(free) || pool.free > 1e15, title);
    const bar = await link.locator(".bar .used").boundingBox();
    assert.ok(pool.used === 0 || bar.width >= 1, `no bar for ${pool.network}`);
    assert.equal(await link.evaluate((link) => link.classList.contains("full")), pool.free === 0, pool.network);
  }
  said("ranges", pools.length);
}

/** The state line lists what needs attention, worst first. Each item must link to its pool. */
async function attention(page) {
  const { attention } = await json("/api/v1/status");
  assert.ok(attention.some(({ kind, network }) => kind === "full" && network === "ci"), JSON.stringify(attention));
  assert.ok(attention.some(({ kind, network }) => kind === "filling" && network === "jobs"), JSON.stringify(attention));
  assert.equal(await page.locator("#state").getAttribute("class"), "error");
  assert.match(await page.locator("#pools .pool").first().innerText(), /^ci\s+full/);
  await page.locator("#state a", { hasText: "ci" }).click();
  assert.match(page.url(), /network=ci&range=172\.20\.4\.1/);
  assert.match(await text(page, "#map-title"), /ci/);
  await until(page, () => /13 allocated/.test(document.querySelector("#trend").innerText));
}

/** A pool, its leases, a prefix, a search and an address have URLs, and Back works. */
async function urls(page) {
  const { pools } = await json("/api/v1/pools");
  const { used, reserved } = pools.find(({ network }) => network === "edge");
  await poolOf(page, "edge").click();
  assert.match(await text(page, "#shown"), new RegExp(`^${used + reserved} of `));
  await poolOf(page, "jobs").click();
  assert.match(await text(page, "#map-title"), /jobs/);
  await page.goBack();
  assert.match(await text(page, "#map-title"), /edge/);
  await page.locator("#rows .row").first().click();
  await page.waitForSelector("#panel[open] dl");
  const address = await text(page, "#panel-title");
  const other = await visit({}, new URL(page.url()).search);
  await other.waitForSelector("#panel[open] dl");
  assert.equal(await text(other, "#panel-title"), address);
  await axe(other, "an address");
  await leave(other);
  await page.goBack();
  await page.waitForSelector("#panel", { state: "hidden" });
  await page.locator("#all").click();
  assert.match(await text(page, "#shown"), /^[\d,]+ leases$/);
  assert.match(await page.locator("#rows time").first().getAttribute("title"), /UTC$/);
  await page.fill("#filter", "jobs 2001");
  assert.equal(await page.locator("#pools .pool").count(), 1);
  await page.fill("#filter", "");
}

async function search(page) {
  const leases = await all("leases");
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "search");
  const one = leases.find((lease) => lease.podName && lease.address.startsWith("10.64."));
  const began = Date.now();
  await page.keyboard.type(one.podName);
  await until(page, (name) => document.querySelector("#rows .pod")?.textContent.includes(name), one.podName);
  said("search", `${Date.now() - began} ms to type and see ${one.podName.length} letters`);
  const found = leases.filter((lease) => lease.podName === one.podName).length;
  assert.match(await text(page, "#shown"), new RegExp(`^${found} of `));
  await page.keyboard.press("Escape");
  await until(page, () => document.querySelector("#search").value === "");
  assert.match(await text(page, "#shown"), new RegExp(`^${leases.length.toLocaleString("en")} leases`));
  await page.fill("#search", "no such thing <img src=x onerror=alert(1)>");
  assert.match(await text(page, "#leases-empty"), /No matching lease/);
  await page.fill("#search", "");
}

async function sort(page) {
  const first = () => page.evaluate(() => {
    const rows = [...document.querySelectorAll("#rows .row")].sort((a, b) => a.ariaRowIndex - b.ariaRowIndex);
    return rows[0].querySelector(".address").textContent;
  });
  const head = page.locator("#columns .address");
  assert.equal(await head.getAttribute("aria-sort"), "ascending");
  const low = await first();
  await head.locator("button").click();
  assert.equal(await head.getAttribute("aria-sort"), "descending");
  const high = await first();
  assert.ok(high.startsWith("2001:db8:9::") && low.startsWith("10.64."), `${low} ${high}`);
  await page.locator("#columns .network button").click();
  assert.equal(await page.locator("#columns .network").getAttribute("aria-sort"), "ascending");
  await page.locator("#columns .address button").click();
  assert.equal(await first(), low);
}

async function keyboard(page) {
  await page.focus("#scroller");
  const chosen = () => page.locator('#rows [aria-selected="true"]');
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowDown");
  assert.equal(await chosen().getAttribute("aria-rowindex"), "3");
  await page.keyboard.press("End");
  const total = Number(await page.locator("#scroller").getAttribute("aria-rowcount"));
  assert.equal(await chosen().getAttribute("aria-rowindex"), String(total));
  assert.equal(await page.locator("#scroller").getAttribute("aria-activedescendant"), `row-${total - 2}`);
  await page.keyboard.press("Enter");
  await page.waitForSelector("#panel[open] dl");
  await page.keyboard.press("Escape");
  await page.waitForSelector("#panel", { state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.id), "scroller");
  assert.ok((await page.locator("#rows .row").count()) < 100, "all rows are in the document");
  await page.keyboard.press("Home");
}

async function zoom(page) {
  await poolOf(page, "pods").click();
  const crumbs = () => page.locator("#crumbs li").allInnerTexts();
  assert.deepEqual(await crumbs(), ["10.64.0.0/16"]);
  const map = page.locator("#map");
  await map.hover({ position: { x: 4, y: 4 } });
  await page.waitForSelector("#tip:not([hidden])");
  assert.match(await text(page, "#tip"), /10\.64\.0\..*\n?click: 10\.64\.0\.0\/20/);
  await map.click({ position: { x: 4, y: 4 } });
  assert.deepEqual(await crumbs(), ["10.64.0.0/16", "10.64.0.0/20"]);
  // From here on, use only the keyboard.
  await map.focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("Enter");
  assert.deepEqual(await crumbs(), ["10.64.0.0/16", "10.64.0.0/20", "10.64.0.0/24"]);
  assert.match(await text(page, "#cell"), /^10\.64\.0\.0: outside the range/);
  await page.keyboard.press("ArrowRight");
  const right = await text(page, "#cell");
  await page.keyboard.press("ArrowDown");
  assert.notEqual(await text(page, "#cell"), right);
  for (let steps = 0; !/: (dynamic|static)/.test(await text(page, "#cell")); steps += 1) {
    assert.ok(steps < 16, "no lease on the map");
    await page.keyboard.press(steps % 2 ? "ArrowRight" : "ArrowDown");
  }
  const cell = await text(page, "#cell");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#panel[open] dl");
  assert.equal(await text(page, "#panel-title"), cell.split(":")[0]);
  await page.keyboard.press("Escape");
  await page.keyboard.press("Backspace");
  await page.keyboard.press("Backspace");
  assert.deepEqual(await crumbs(), ["10.64.0.0/16"]);
  await page.locator("#order").click();
  assert.equal(await page.locator("#order").getAttribute("aria-pressed"), "true");
  await page.locator("#order").click();
  // If a /64 has few leases, the map must begin at the first address in use.
  await poolOf(page, "lab").click();
  const lab = await crumbs();
  assert.ok(lab.length === 2 && lab[0] === "2001:db8:7::/64", lab.join(" "));
  await poolOf(page, "edge").click();
  assert.match(await text(page, "#map-title"), /edge/);
  // The map must use the colors that the legend shows.
  for (const state of ["used", "reserved", "cooling", "free"]) {
    const there = await page.evaluate((state) => {
      const wanted = getComputedStyle(document.querySelector(`.key.${state}`)).backgroundColor.match(/\d+/g).map(Number);
      const canvas = document.querySelector("#map");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 0; i < data.length; i += 4) count += wanted.slice(0, 3).every((value, part) => Math.abs(value - data[i + part]) < 3);
      return count;
    }, state);
    assert.ok(there > 20, `the color of ${state} is not on the map`);
  }
}

async function history(page) {
  const leases = await all("leases");
  const crashed = leases.filter((lease) => lease.podName);
  let busy = null;
  for (const lease of crashed.slice(0, 30)) {
    const past = await json(`/api/v1/history/${lease.address}`);
    if (past.events.length > (busy?.events.length ?? 0)) busy = past;
  }
  await page.locator("#all").click();
  await page.fill("#search", busy.address);
  await page.locator("#rows .row", { hasText: `${busy.address}/` }).first().click();
  await page.waitForSelector("#events time");
  // The containers of this store do not exist, so nothing is known about their network namespaces.
  assert.match(await text(page, "#holder .evidence"), /Cannot determine whether the container is running: .*Next: sublet gc --dry-run/s);
  assert.equal(await page.locator("#events li").count(), busy.events.length);
  assert.match(await text(page, "#events"), /leased|imported/);
  await page.locator("#close").click();
  await page.fill("#search", "");
}

/** The slider must show the map at an earlier time and write the time into the URL. The Now button returns. */
async function past(page) {
  await poolOf(page, "edge").click();
  await page.focus("#time");
  await page.keyboard.press("Home");
  await until(page, () => /time=/.test(location.search) && /ago/.test(document.querySelector("#map-title").textContent));
  const time = new URL(page.url()).searchParams.get("time");
  const { events } = await json(`/api/v1/history?network=edge&at=${time}`);
  assert.ok(events.length >= 1 && events.length < 5, `${events.length} at ${time}`);
  // .50 was reserved only after this time.
  await page.locator("#map").focus();
  await page.keyboard.press("Home");
  await until(page, () => /^192\.0\.2\.0: outside/.test(document.querySelector("#cell").textContent));
  const shown = await page.evaluate(() => {
    const wanted = getComputedStyle(document.querySelector(".key.reserved")).backgroundColor;
    const canvas = document.querySelector("#map");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const parts = wanted.match(/\d+/g).map(Number);
    for (let i = 0; i < data.length; i += 4) if (parts.slice(0, 3).every((value, part) => Math.abs(value - data[i + part]) < 3)) return true;
    return false;
  });
  assert.ok(!shown, "a reservation is shown before it was made");
  await axe(page, "the past");
  const other = await visit({}, new URL(page.url()).search);
  await until(other, () => /ago/.test(document.querySelector("#map-title").textContent));
  await leave(other);
  await page.locator("#now").click();
  assert.doesNotMatch(page.url(), /time=/);
  assert.match(await text(page, "#when"), /^now$/);
}

/** The Tab key must reach every control, and the focused control must have a visible outline. */
async function tabs(page) {
  await page.evaluate(() => document.activeElement?.blur());
  const seen = new Set();
  for (let i = 0; i < 60; i += 1) {
    await page.keyboard.press("Tab");
    const [id, outline] = await page.evaluate(() => {
      const element = document.activeElement;
      return [element.id || element.className.split(" ")[0], getComputedStyle(element).outlineStyle];
    });
    if (id) seen.add(id);
    if (id && id !== "page") assert.notEqual(outline, "none", `${id} has the focus and does not show it`);
  }
  for (const id of ["skip", "theme", "pool", "map", "search", "scroller"]) assert.ok(seen.has(id), `Tab does not reach ${id}: ${[...seen]}`);
}

async function theme(page) {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.locator("#theme").click();
  await page.locator("#theme").click();
  assert.match(await text(page, "#theme"), /dark/);
  assert.notEqual(await ground(), light);
  assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0);
  await page.locator("#theme").click();
  assert.equal(await ground(), light);
}

async function phone() {
  const page = await visit(PHONE);
  await shift(page);
  await axe(page, "phone");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wide <= 0, `${wide} pixels wider than the screen`);
  const row = await page.locator("#rows .row").first().boundingBox();
  assert.ok(row.height >= 44, `rows are ${row.height} pixels high`);
  await page.locator("#rows .row").first().tap();
  await page.waitForSelector("#panel[open] dl");
  const panel = await page.locator("#panel").boundingBox();
  assert.ok(panel.width <= 390);
  await page.locator("#close").tap();
  await poolOf(page, "pods").tap();
  await page.locator("#map").tap({ position: { x: 20, y: 20 } });
  assert.equal(await page.locator("#crumbs li").count(), 2);
  await page.locator("#zoom-out").tap();
  assert.equal(await page.locator("#crumbs li").count(), 1);
  await poolOf(page, "edge").tap();
  await leave(page);
}

async function full() {
  const page = await visit();
  const loaded = await paint(page);
  said("all leases loaded", `${Math.round(loaded)} ms`);
  await shift(page);
  await axe(page, "light");
  await pools(page);
  await attention(page);
  await urls(page);
  await search(page);
  await sort(page);
  await keyboard(page);
  await zoom(page);
  await history(page);
  await past(page);
  await tabs(page);
  await theme(page);
  const nodes = await json("/api/v1/nodes");
  assert.equal(await page.locator("#nodes tbody tr").count(), nodes.nodes.length);
  assert.match(await text(page, "#nodes"), /this host/);
  await leave(page);
  const dark = await visit({ colorScheme: "dark" });
  await axe(dark, "dark");
  await leave(dark);
  await phone();
}

/** The store has more leases than the page loads. A search must also find a lease that is not loaded. */
async function million() {
  const page = await visit();
  const loaded = await paint(page);
  said("the first 70,000 leases loaded", `${Math.round(loaded)} ms`);
  assert.match(await text(page, "#shown"), /^the first 7\d,\d{3} of 1,000,000 leases$/);
  const began = Date.now();
  await page.fill("#search", "2001:db8:9::3/64");
  await until(page, () => /^1 of 1,000,000/.test(document.querySelector("#shown").textContent), null, 60_000);
  said("search", `${Date.now() - began} ms until the server has found one lease`);
  await leave(page);
}

/** The store is damaged after it was read. The page must keep showing the old data and say what is wrong. */
async function damage() {
  const page = await visit();
  process.stdout.write("seen: ready\n");
  await until(page, () => document.querySelector("#state").innerText.includes("cannot be read"), null, 30_000);
  assert.equal(await page.locator("#state").getAttribute("class"), "error");
  assert.ok((await page.locator("#pools .pool").count()) > 5, "the pools that were read are gone");
  // The list of problems is updated later in the same poll.
  await until(page, () => /Error: .*leases\.redb/.test(document.querySelector("#problems").textContent));
  await axe(page, "damage");
  page.faults = page.faults.filter((fault) => !fault.includes("503"));
  if (pictures) await page.screenshot({ path: `${pictures}/page-damage.png` });
  await leave(page);
}

/**
 * There are two stores. A menu must switch between them, and the state line must also list problems of the
 * store that is not shown.
 */
async function stores() {
  const page = await visit();
  const { stores } = await json("/api/v1/stores");
  assert.equal(await page.locator("#store option").count(), 2);
  await until(page, () => document.querySelectorAll("#state a").length > 0);
  await axe(page, "several stores");
  assert.match(await text(page, "#pools"), /No pool yet/);
  await page.locator("#state a", { hasText: stores[1].store }).click();
  await page.waitForSelector("html[data-ready]");
  assert.equal(await page.locator("#store").inputValue(), stores[1].store);
  assert.match(await text(page, "#shown"), /^100 leases/);
  await page.locator("#store").selectOption(stores[0].store);
  await page.waitForSelector("html[data-ready]");
  await until(page, () => /No pool yet/.test(document.querySelector("#pools").textContent));
  await leave(page);
}

/** Saves a screenshot. On a desktop, the pointer is on the map, so that the tooltip is visible. */
async function picture(name, options, query = "?network=pods") {
  const page = await visit(options, query);
  await until(page, () => !document.querySelector("#trend").classList.contains("none"));
  if (query.includes("address")) await page.waitForSelector("#panel[open] dl");
  if (!options.isMobile && query === "?network=pods") {
    const box = await page.locator("#map").boundingBox();
    await page.mouse.move(box.x + box.width * 0.62, box.y + box.height * 0.4);
    await page.waitForSelector("#tip:not([hidden])");
  }
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${pictures}/${name}` });
  await leave(page);
}

try {
  await headers();
  if (size === "none") await empty();
  else if (size === "million") await million();
  else if (size === "stores") await stores();
  else if (size === "damage") await damage();
  else if (size !== "picture") await full();
  if (pictures && size === "picture") {
    const viewport = { width: 1280, height: 880 };
    await picture("page-light.png", { colorScheme: "light", viewport });
    await picture("page-dark.png", { colorScheme: "dark", viewport });
    await picture("page-full.png", { colorScheme: "light", viewport }, "?network=ci");
    const { leases } = await json("/api/v1/leases?network=pods&q=shop/cart&limit=1");
    const { time } = await json("/api/v1/trends");
    const then = new Date(Date.parse(time) - 9 * 3600e3).toISOString().slice(0, 19);
    await picture("page-past.png", { colorScheme: "light", viewport }, `?network=edge&time=${then}Z`);
    await picture("page-address.png", { colorScheme: "light", viewport }, `?network=pods&address=${leases[0].address}`);
    await picture("page-phone.png", { ...PHONE, viewport: { width: 390, height: 760 } }, "");
  }
} finally {
  await browser.close();
}
