// The last part: one address, and what begins when the page is there.

// ---- one address -----------------------------------------------------------------------------

const WORDS = {
  added: "leased", "taken-over": "taken over from host-local", imported: "imported", reserved: "reserved",
  deleted: "freed", undone: "freed: nobody took the answer", collected: "freed by the runtime's GC",
  lost: "freed: its container is gone", released: "freed by an operator", unreserved: "no longer reserved",
  swept: "freed: Docker does not know it", "pool-released": "freed with its pool",
  "boot-ended": "ended with its boot", "node-released": "freed with its node",
  "exported": "handed over to host-local",
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
      return make("li", event.held ? "held" : "", time, what, who);
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
