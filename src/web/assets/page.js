// The side panel with the leases and the history of one address, and the start of the page.

// ---- one address -----------------------------------------------------------------------------

const WORDS = {
  added: "leased", "taken-over": "imported from host-local", imported: "imported", reserved: "reserved",
  deleted: "freed", undone: "freed: the client did not receive the response", collected: "freed by the runtime's GC",
  lost: "freed: the container was gone", released: "freed by an operator", unreserved: "no longer reserved",
  swept: "freed: not listed by Docker", "pool-released": "freed with its pool",
  "boot-ended": "ended with its boot", "node-released": "freed with its node",
  "exported": "exported to host-local",
};

const panel = {
  address: null,

  begin() {
    const leave = () => route.go({ address: "" });
    at("close").addEventListener("click", leave);
    at("panel").addEventListener("cancel", (event) => {
      event.preventDefault();
      leave();
    });
    at("panel").addEventListener("click", (event) => {
      if (event.target === at("panel") && event.offsetX < 0) leave();
    });
  },

  async open(address) {
    if (at("panel").open && this.address === address) return;
    this.address = address;
    at("panel-title").textContent = address;
    at("holder").replaceChildren();
    at("events").replaceChildren(make("li", "empty", "loading\u2026"));
    if (!at("panel").open) at("panel").showModal();
    try {
      this.show(await get(`history/${encodeURIComponent(address)}`));
    } catch (error) {
      at("events").replaceChildren(make("li", "empty", error.message));
    }
  },

  who(fact) {
    const pod = fact.podName ? `pod ${fact.podNamespace}/${fact.podName}` : "";
    const container = fact.containerID ? `container ${fact.containerID.slice(0, 12)}${fact.ifname ? ` (${fact.ifname})` : ""}` : "";
    return [pod, container, fact.id && `id ${fact.id}`, fact.endpoint, fact.note].filter(Boolean).join(", ");
  },

  /** Shows whether the container of a lease is alive, and the command to run next. */
  evidence({ container, reason, next }) {
    const words = { running: "The container is running", gone: "The container is gone", unknown: "Cannot determine whether the container is running" };
    const lines = [];
    if (container) lines.push(make("p", "", make("strong", "", words[container]), `: ${reason}.`));
    if (next) lines.push(make("p", "dim", "Next: ", make("code", "", next)));
    return lines.length ? [make("div", `evidence ${container ?? ""}`, ...lines)] : [];
  },

  /** Shows the state of an address that is not leased: free, cooling down, not allocatable or in no range. */
  unheld(address) {
    const { v6, value } = parse(address);
    const between = ([first, last]) => value >= parse(first).value && value <= parse(last).value;
    const inside = known.pools.filter((pool) => pool.first.includes(":") === v6 && between([pool.first, pool.last]));
    const lines = inside.map((pool) => {
      const cooling = known.cooling.find((row) => row.set === pool.set && row.address === address);
      const state = cooling ? `The address is cooling down until ${clock(cooling.until)} UTC`
        : pool.allocatable.some(between) ? "The address is free" : "The address is not allocatable: a gateway, or excluded";
      return make("p", "empty", `Not leased. ${state}, in ${nameOf(pool)} ${rangeOf(pool)}.`);
    });
    return lines.length ? lines : [make("p", "empty", "The address is not leased, and it is outside every range.")];
  },

  show({ address, leases, evidence, events }) {
    at("holder").replaceChildren(...leases.flatMap((row, i) => {
      const facts = [
        ["network", row.network], ["kind", row.kind], ["container", row.containerID], ["interface", row.ifname], ["id", row.id],
        ["pod", row.podName && `${row.podNamespace}/${row.podName}`], ["endpoint", row.endpoint], ["pool", row.pool], ["MAC", row.mac],
        ["note", row.note], ["for", row.holder], ["netns", row.netns], ["node", row.node], ["since", since(row.time)],
      ];
      const list = make("dl", "", ...facts.filter(([, text]) => text).flatMap(([name, text]) => [make("dt", "", name), make("dd", "", text)]));
      return [...this.evidence(evidence[i]), list];
    }));
    if (leases.length === 0) at("holder").replaceChildren(...this.unheld(address));
    const items = events.map((event) => {
      const time = since(event.time);
      const what = make("p", "", make("strong", "", WORDS[event.event] ?? event.event), ` on ${event.network}`);
      const who = make("p", "dim", [this.who(event), event.node && `on ${event.node}`, `by ${event.face}`].filter(Boolean).join(", "));
      return make("li", event.held ? "held" : "", time, what, who);
    });
    if (items.length === 0) items.push(make("li", "empty", "The history has no event of this address."));
    at("events").replaceChildren(...items);
  },
};

// ---- the page --------------------------------------------------------------------------------

/** Sets up the button that changes the theme. A reload resets the theme, because the page stores no data. */
function beginTheme() {
  const words = ["auto", "light", "dark"];
  let chosen = 0;
  at("theme").addEventListener("click", () => {
    chosen = (chosen + 1) % words.length;
    root.dataset.theme = words[chosen];
    at("theme").textContent = `Theme: ${words[chosen]}`;
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
      route.go({ q: "" }, false);
    } else if ((event.key === "ArrowDown" || event.key === "Enter") && document.activeElement === search) {
      at("scroller").focus();
      event.preventDefault();
    }
  });
}

// ---- polling ---------------------------------------------------------------------------------

const POLL = 5000; // milliseconds between polls while the page is visible

async function look() {
  const trouble = at("trouble");
  // On the first poll, load the leases while the server still checks the store for problems.
  const loading = known.version === null ? lists() : undefined;
  loading?.catch(() => {});
  try {
    const [status] = await Promise.all([get("status"), loadStores()]);
    const trends = loadTrends().catch(() => {});
    known.unreadable = status.read ? null : status.attention[0]?.advice;
    showFacts(status);
    if (status.pools) {
      // Trends that take longer are shown after the next poll.
      await Promise.race([trends, new Promise((resolve) => { setTimeout(resolve, 500); })]);
      takePools(status.pools);
    }
    showPools();
    showState(status);
    const old = status.attention.some(({ kind }) => ["locked", "unavailable", "unreadable"].includes(kind));
    const read = old ? "as read " : "read ";
    at("fresh").replaceChildren(...(status.read ? [read, since(status.read)] : []));
    if (old && status.read) at("pools-count").replaceChildren(read, since(status.read));
    if (status.read) {
      try {
        showNodes(await get("nodes"));
        await load(status, loading);
      } catch (error) {
        // If the state is "error", the state line already shows why the store cannot be read.
        if (status.state !== "error") throw error;
      }
    }
    showProblems(await get("problems"));
    root.dataset.ready = "yes";
    if (!map.view || !known.pools.some((pool) => keyOf(pool) === map.key)) route.show();
    map.refresh();
    table.empty();
    trouble.hidden = true;
  } catch (error) {
    if (!(error instanceof Unanswered)) console.error(error);
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
  for (const time of document.querySelectorAll("time[datetime]")) time.textContent = ago(time.dateTime);
}

async function follow() {
  if (!document.hidden) await look();
  const isWhole = at("state").className !== "unknown" && (known.trends.size > 0 || known.pools.length === 0);
  setTimeout(follow, isWhole ? POLL : 1000);
}

beginTheme();
beginKeys();
table.begin();
map.begin();
past.begin();
panel.begin();
at("store").addEventListener("change", () => { location.search = new URLSearchParams({ store: at("store").value }); });
at("filter").addEventListener("input", showPools);
route.link(at("all"), { network: "", range: "", at: "" });
addEventListener("popstate", () => route.show());
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
follow();
