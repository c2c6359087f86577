// The page of the console. What services say enters the document as text nodes and attributes only.

const $ = (id) => document.getElementById(id);

// ---- elements

// h("button.strong", {onclick}, "text", child…)
function h(kind, ...rest) {
  const [tag, ...classes] = kind.split(".");
  return fill(document.createElement(tag), classes, rest);
}
function s(kind, ...rest) {
  const [tag, ...classes] = kind.split(".");
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), classes, rest);
}
function fill(element, classes, rest) {
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const part of rest.flat()) {
    if (part == null || part === false) continue;
    if (typeof part === "object" && !(part instanceof Node)) set(element, part);
    else element.append(part instanceof Node ? part : String(part));
  }
  return element;
}
function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value == null || (value === false && !name.startsWith("aria-"))) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
  return element;
}
function say(element, text) {
  text = text == null ? "" : String(text);
  if (element.textContent !== text) element.textContent = text;
}
// Brings the children of `parent` to `items`, each element kept by its key.
function keyed(parent, items, key, make, update) {
  const known = parent.known ??= new Map();
  const seen = new Set();
  let at = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    if (seen.has(name)) continue;
    seen.add(name);
    let element = known.get(name);
    if (!element) known.set(name, (element = make(item)));
    update(element, item);
    if (element === at) at = at.nextSibling;
    else parent.insertBefore(element, at);
  }
  for (const [name, element] of known) if (!seen.has(name)) { element.remove(); known.delete(name); }
}
// A table whose rows are kept by key. `columns`: [title, class, item => text or node].
function table(columns, key) {
  const body = h("tbody");
  const head = h("tr", columns.map(([title, kind]) => h("th" + (kind ? "." + kind : ""), { scope: "col" }, title)));
  const root = h("div.scroll", h("table", h("thead", head), body));
  const make = () => h("tr", columns.map(([, kind]) => h("td" + (kind ? "." + kind : ""))));
  const update = (row, item) => columns.forEach(([, , read], at) => {
    const cell = row.children[at], value = read(item, cell);
    if (value === undefined) return;
    if (value instanceof Node) cell.replaceChildren(value); else say(cell, value);
  });
  return { root, show: (items) => keyed(body, items, key, make, update) };
}
// A list of any length, of which only the rows in sight are in the document. Rows: {make, update(row, item)}, picked by click or by keyboard.
function windowed({ label, kind, height, key, make, update, pick, low }) {
  const inner = h("div");
  const id = "list-" + kind;
  const root = h("div.window", { tabindex: 0, role: "listbox", "aria-label": label, id }, inner);
  const pool = [];
  let items = [], cursor = -1, chosen = null, due = 0;
  const draw = () => {
    due = 0;
    inner.style.height = items.length * height + "px";
    root.style.height = Math.max(2 * height, Math.min(items.length * height, low ? 340 : innerHeight - 150)) + "px";
    const first = Math.max(0, Math.floor(root.scrollTop / height) - 4);
    const count = Math.min(items.length - first, Math.ceil((root.clientHeight || 600) / height) + 8);
    for (let n = 0; n < Math.max(count, pool.length); n++) {
      if (n >= count) { pool[n].hidden = true; continue; }
      const at = first + n, item = items[at];
      const row = pool[n] ??= inner.appendChild(fill(make(), ["row", kind], [{ role: "option", onclick: (event) => choose(event.currentTarget.at) }]));
      row.hidden = false;
      row.at = at;
      row.style.height = height + "px";
      row.style.transform = `translateY(${at * height}px)`;
      set(row, { id: `${id}-${at}`, "aria-setsize": items.length, "aria-posinset": at + 1, "aria-selected": key(item) === chosen });
      update(row, item);
    }
    set(root, { "aria-activedescendant": cursor >= 0 && cursor < items.length ? `${id}-${cursor}` : null });
  };
  const later = () => { due ||= requestAnimationFrame(draw); };
  const choose = (at) => {
    if (!items[at]) return;
    cursor = at;
    chosen = key(items[at]);
    later();
    pick(items[at]);
  };
  root.addEventListener("scroll", later, { passive: true });
  root.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(root.clientHeight / height) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !items.length) return;
    event.preventDefault();
    const at = Math.min(items.length - 1, Math.max(0, cursor + step));
    if ((at + 1) * height > root.scrollTop + root.clientHeight) root.scrollTop = (at + 1) * height - root.clientHeight;
    if (at * height < root.scrollTop) root.scrollTop = at * height;
    choose(at);
  });
  new ResizeObserver(later).observe(root);
  return {
    root,
    show(next) {
      items = next;
      if (chosen != null) cursor = items.findIndex((item) => key(item) === chosen);
      later();
    },
    mark(name) { chosen = name; cursor = items.findIndex((item) => key(item) === name); later(); },
  };
}

// ---- figures

const number = new Intl.NumberFormat("en");
const count = (n) => (n == null ? "–" : number.format(n));
const share = (part, all) => (all ? ((100 * part) / all).toFixed(part && part / all < 0.1 ? 1 : 0) + " %" : "–");
const perSecond = (n) => (n == null ? "–" : (n >= 100 ? Math.round(n) : Math.round(n * 10) / 10) + "/s");
function span(ms) {
  if (ms == null) return "–";
  if (ms >= 86400e3) return (ms / 86400e3).toFixed(1) + " d";
  if (ms >= 3600e3) return (ms / 3600e3).toFixed(1) + " h";
  if (ms >= 60e3) return (ms / 60e3).toFixed(1) + " min";
  if (ms >= 1e3 && ms % 1e3 === 0) return ms / 1e3 + " s";
  if (ms >= 1e3) return (ms / 1e3).toFixed(ms < 10e3 ? 2 : 1) + " s";
  return (ms >= 100 ? Math.round(ms) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2)) + " ms";
}
const clock = (ms) => new Date(ms).toTimeString().slice(0, 8);
const day = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC";
const bytes = (n) => (n >= 1 << 20 ? (n / (1 << 20)).toFixed(1) + " MiB" : n >= 1024 ? (n / 1024).toFixed(1) + " KiB" : n + " B");
const words = (name) => String(name).replaceAll("_", " ");
const grade = (part, all) => (!all ? "" : part / all >= 0.05 ? "bad" : part > 0 ? "warn" : "good");

// How fast counters grow, from one reading to the next.
function rates() {
  const known = new Map();
  return (name, value) => {
    const now = performance.now(), last = known.get(name);
    if (last && now - last.at < 500) return last.rate;
    const rate = last && value >= last.value ? (value - last.value) / ((now - last.at) / 1e3) : null;
    known.set(name, { at: now, value, rate });
    return rate;
  };
}

// ---- asking

let token = sessionStorage.getItem("token") ?? "";
let session = { operator: false, can_act: false, sources: {} };
const headers = () => (token ? { authorization: "Bearer " + token } : {});

async function get(path) {
  const answer = await fetch(path, { headers: headers() });
  if (!answer.ok) throw new Error(await why(answer));
  return answer.json();
}
async function why(answer) {
  try { const problem = await answer.json(); return problem.detail ?? problem.title; } catch { return "answer " + answer.status; }
}
async function order(path, body, done) {
  try {
    const answer = await fetch("api/" + path, { method: "POST", headers: { "content-type": "application/json", ...headers() }, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(await why(answer));
    tell(done(await answer.json()));
    return true;
  } catch (error) { tell("Refused: " + error.message); return false; }
}
let quiet;
function tell(text) {
  $("said").textContent = text;
  $("said").classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => $("said").classList.remove("on"), 5000);
}
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Reads the events of a page until `signal` says stop. Not an EventSource, which cannot show a token.
async function follow(page, show, signal) {
  while (!signal.aborted) {
    try {
      const answer = await fetch("live?page=" + page, { headers: headers(), signal });
      if (!answer.ok) throw new Error(await why(answer));
      link("live", true);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          if (text.startsWith("data: ")) show(JSON.parse(text.slice(6, end)));
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      link(error.message === "Failed to fetch" || error.name === "TypeError" ? "no answer, trying again" : error.message, false);
      await sleep(1000);
    }
  }
}
function link(text, live) {
  say($("link"), text);
  $("link").classList.toggle("live", live);
}

// Asks a person. Resolves with the text, or null.
function ask({ title, text, label, secret, strong = "OK" }) {
  const dialog = $("ask"), input = $("ask-input");
  say($("ask-title"), title);
  say($("ask-text"), text);
  say($("ask-label").firstElementChild, label);
  say($("ask-yes"), strong);
  $("ask-label").hidden = !label;
  input.type = secret ? "password" : "text";
  input.value = "";
  return new Promise((done) => {
    dialog.returnValue = "no";
    dialog.onclose = () => { done(dialog.returnValue === "yes" ? input.value : null); input.value = ""; };
    dialog.showModal();
  });
}
$("ask-no").addEventListener("click", () => $("ask").close("no"));

function act(name, run, kind) {
  const button = h("button" + (kind ? "." + kind : ""), { type: "button", "data-act": name, onclick: async () => { button.disabled = true; try { await run(); } finally { button.disabled = false; } } }, name);
  return button;
}
const acts = (...buttons) => (session.operator ? h("div.acts", buttons.flat()) : null);
const empty = (title, text, code) => h("div.empty", h("h2", title), h("p", text), code && h("code", code));
const pill = (text, kind) => h("span.pill" + (kind ? "." + kind : ""), text);
const toTrace = (id) => (id ? h("a", { href: "#traces/" + encodeURIComponent(id) }, "trace " + id.slice(0, 8)) : null);

// ---- graphs

// Columns by the longest way from a start; what goes round in a circle is cut where it closes.
function layers(nodes, edges) {
  const column = new Map(nodes.map((node) => [node, 0]));
  for (let round = 0; round < nodes.length; round++) {
    let moved = false;
    for (const [from, to] of edges) {
      const next = column.get(from) + 1;
      if (from !== to && column.has(to) && next > column.get(to) && next < nodes.length) { column.set(to, next); moved = true; }
    }
    if (!moved) break;
  }
  return column;
}
function places(nodes, edges, wide, high) {
  const column = layers(nodes, edges), rows = [], place = new Map();
  for (const node of nodes) {
    const x = column.get(node);
    const y = (rows[x] = (rows[x] ?? -1) + 1);
    place.set(node, { x: x * wide, y: y * high });
  }
  return { place, columns: rows.length, rows: Math.max(0, ...rows.map((row) => (row ?? -1) + 1)) };
}
const curve = (a, b, w, y) => {
  const x1 = a.x + w, y1 = a.y + y, x2 = b.x, y2 = b.y + y, bend = Math.max(40, Math.abs(x2 - x1) / 2);
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
};
// The same over several columns: it passes between the boxes of those in between. `taken` counts who passes where.
function way(a, b, { w, y, gap, high, rows }, taken) {
  let from = { x: a.x + w, y: a.y + y }, d = `M${from.x} ${from.y}`;
  const to = (x, at) => { const bend = Math.max(24, (x - from.x) / 2); d += `C${from.x + bend} ${from.y} ${x - bend} ${at} ${x} ${at}`; from = { x, y: at }; };
  for (let x = a.x + gap; x < b.x; x += gap) {
    const straight = a.y + ((b.y - a.y) * (x - a.x)) / (b.x - a.x);
    const lane = Math.max(0, Math.min(rows - 1, Math.round((straight + y + 12) / high) - 1)), place = x + " " + lane;
    const turn = (taken[place] = (taken[place] ?? 0) + 1) - 1;
    to(x, lane * high + high - 17 + (turn % 4) * 4);
    from.x = x + w;
    d += `H${from.x}`;
  }
  to(b.x, b.y + y);
  return d;
}

// ---- pages: build(root) answers show(data), and perhaps open(id)

// Only who picks changes the address: what is drawn again by itself would take back where a person is about to go.
const pick = (page, id) => { history.replaceState(null, "", `#${page}/${encodeURIComponent(id)}`); current.open(id); };

const pages = {
  map: {
    title: "Map",
    empty: ["No services yet", "Services and their instances appear here with health, rate, errors and latencies, and who calls whom.", "Sources::new().registry(registry).metrics(\"orders\", sidecar.metrics()).gateway(\"edge\", &live)"],
    build(root) {
      const w = 176, high = 92, gap = 300;
      const svg = s("svg.map", { role: "group", "aria-label": "Services and who calls whom" }), paths = s("g"), labels = s("g"), boxes = s("g");
      svg.append(paths, labels, boxes);
      const note = h("p.warn-ink");
      let chosen = null, last = null;
      const calls = table([
        ["From", "", (e) => e.from], ["To", "", (e) => e.to], ["Rate", "n", (e) => perSecond(e.rate)],
        ["Errors", "n", (e, cell) => { cell.className = "n" + (e.errors ? " bad-ink" : ""); return share(e.errors, e.calls); }],
        ["p50", "n", (e) => span(e.p50_ms)], ["p99", "n", (e) => span(e.p99_ms)],
        ["Callers see failing", "n", (e) => (e.retries ? share(e.retries.calls_failed, e.retries.calls) : "–")],
        ["Attempts failing", "n", (e) => (e.retries ? share(e.retries.attempts_failed, e.retries.attempts) : "–")],
        ["Saved by retries", "n", (e) => (e.retries ? count(e.retries.recovered) : "–")],
      ], (e) => e.from + "\n" + e.to);
      const routes = table([
        ["Gateway", "", (r) => r.of], ["Route", "mono", (r) => (r.host ?? "") + r.path], ["To", "", (r) => r.upstreams.join(", ") || "itself"],
        ["2xx", "n", (r) => count(r.answers["2xx"])], ["4xx", "n", (r) => count(r.answers["4xx"])],
        ["5xx", "n", (r, cell) => { cell.className = "n" + (r.answers["5xx"] ? " bad-ink" : ""); return count(r.answers["5xx"]); }],
        ["Refused", "n", (r) => count(r.refused)], ["Mean", "n", (r) => span(r.mean_ms)],
      ], (r) => r.of + "\n" + r.number);
      const list = windowed({
        label: "Instances", kind: "instance", height: 28, low: true, key: (i) => i.id, pick() {},
        make: () => h("div", h("span"), h("span"), h("span"), h("span")),
        update(row, i) {
          const [name, health, zone, circuit] = row.children;
          say(name, i.address + (i.id === i.address ? "" : " · " + i.id) + (i.version ? " · " + i.version : ""));
          say(health, i.health + (i.suspect ? " ?" : ""));
          health.className = { healthy: "", unhealthy: "bad-ink", draining: "warn-ink" }[i.health] ?? "soft";
          say(zone, i.zone ?? "");
          say(circuit, i.circuit && i.circuit !== "closed" ? "circuit " + words(i.circuit) : "");
          circuit.className = "warn-ink";
        },
      });
      const title = h("h2"), facts = h("p.soft");
      const side = h("section.card", { "aria-label": "Instances" }, title, facts, list.root);
      const more = h("section.card", h("h2", "Calls"), calls.root), gateways = h("section.card", h("h2", "Routes"), routes.root);
      root.append(note, h("div.card.scroll", svg), side, more, gateways);
      const choose = (name) => { chosen = name; if (last) show(last); };
      const show = (data) => {
        last = data;
        say(note, data.error ? "The registry does not answer: " + data.error : data.left_out ? `${count(data.left_out)} more instances are not shown.` : "");
        const known = new Map(data.services.map((service) => [service.name, service]));
        for (const edge of data.edges) if (!known.has(edge.to)) known.set(edge.to, { name: edge.to, instances: [], outside: true });
        const nodes = [...known.values()];
        const { place, columns, rows } = places(nodes.map((n) => n.name), data.edges.map((e) => [e.from, e.to]), gap, high);
        set(svg, { width: Math.max(1, columns) * gap - gap + w + 8, height: Math.max(1, rows) * high + 4, viewBox: `-4 -4 ${Math.max(1, columns) * gap - gap + w + 8} ${Math.max(1, rows) * high + 4}` });
        const at = (edge) => [place.get(edge.from) ?? { x: 0, y: 0 }, place.get(edge.to)], taken = {};
        keyed(paths, data.edges, (e) => e.from + "\n" + e.to, () => s("path", s("title")), (path, e) => {
          const [a, b] = at(e);
          set(path, { d: b.x > a.x + gap ? way(a, b, { w, y: 32, gap, high, rows }, taken) : curve(a, b, w, 32), class: "edge " + (!e.errors && e.retries?.attempts_failed ? "warn" : grade(e.errors, e.calls)), "stroke-width": (1.2 + Math.min(5, Math.log10(1 + (e.rate ?? 0)) * 1.6)).toFixed(1) });
          say(path.firstChild, `${e.from} → ${e.to}: ${perSecond(e.rate)}, ${share(e.errors, e.calls)} failed, p99 ${span(e.p99_ms)}` + (e.retries ? `; of the attempts ${share(e.retries.attempts_failed, e.retries.attempts)} failed` : ""));
        });
        keyed(labels, data.edges, (e) => e.from + "\n" + e.to, () => s("text.small.flow", { "text-anchor": "end" }), (text, e) => {
          const [a, b] = at(e);
          // In front of where it ends: there each has a place of its own, unless many end at one.
          const into = data.edges.filter((other) => other.to === e.to), turn = into.indexOf(e) - (into.length - 1) / 2;
          set(text, { x: b.x - 6, y: b.y + 26 + turn * 15 });
          say(text, perSecond(e.rate) + (e.errors ? " · " + share(e.errors, e.calls) + " fail" : e.retries?.attempts_failed ? " · " + share(e.retries.attempts_failed, e.retries.attempts) + " retried" : ""));
        });
        const box = () => {
          const g = s("g.node", { tabindex: 0, role: "button" }, s("rect.node", { width: w, height: 68 }), s("text", { x: 10, y: 19 }), s("text.small", { x: 10, y: 36 }), s("g", { transform: "translate(10 46)" }));
          g.addEventListener("click", () => choose(g.name));
          g.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(g.name); } });
          return g;
        };
        keyed(boxes, nodes, (n) => n.name, box, (g, n) => {
          const p = place.get(n.name), t = n.traffic, up = n.instances.filter((i) => i.health === "healthy").length;
          g.name = n.name;
          const kind = n.outside ? "soft" : n.instances.length && !up ? "bad" : t ? grade(t.errors, t.calls) : up < n.instances.length ? "warn" : "good";
          set(g, { transform: `translate(${p.x} ${p.y})`, "aria-label": `${n.name}, ${up} of ${n.instances.length} instances healthy`, "aria-selected": n.name === chosen });
          set(g.children[0], { class: "node " + kind });
          say(g.children[1], n.name.length > 24 ? n.name.slice(0, 23) + "…" : n.name);
          say(g.children[2], t ? (t.calls ? `${perSecond(t.rate)} · ${share(t.errors, t.calls)} err · p99 ${span(t.p99_ms)}` : "no calls lately") : n.outside ? "not in the registry" : `${up} of ${n.instances.length} healthy`);
          const dots = n.instances.slice(0, 19);
          keyed(g.children[3], dots, (i) => i.id, () => s("rect", { width: 6, height: 10, rx: 1.5 }), (dot, i) => set(dot, { x: dots.indexOf(i) * 8, class: "h-" + i.health }));
        });
        const service = known.get(chosen) ?? nodes.find((n) => n.instances.length) ?? nodes[0];
        side.hidden = !service?.instances.length;
        if (service) {
          const t = service.traffic;
          say(title, service.name);
          say(facts, `${count(service.instances.length)} instance${service.instances.length === 1 ? "" : "s"}` + (t ? ` · ${count(t.calls)} calls ${data.window_ms ? "in " + span(data.window_ms) : "so far"}${t.calls ? " · p50 " + span(t.p50_ms) : ""} · ${count(service.active)} under way` : ""));
          list.show(service.instances);
        }
        more.hidden = !data.edges.length;
        calls.show(data.edges);
        const all = data.gateways.flatMap((g) => g.routes.map((r, number) => ({ ...r, of: g.name, number })));
        gateways.hidden = !all.length;
        routes.show(all);
      };
      return { show, blank: (data) => !data.services.length && !data.edges.length && !data.error, again: true };
    },
  },

  breakers: {
    title: "Breakers",
    empty: ["No circuits yet", "Each circuit appears here with its state, its window and the time until its next probe. Operators open, close and reset them.", "Sources::new().circuit(\"payments\", &circuit).circuits(\"endpoints\", &circuits)"],
    build(root) {
      const filter = h("input", { type: "search", placeholder: "Filter by name   /", "aria-label": "Filter" }), told = h("span.soft");
      const grid = h("div.grid");
      root.append(h("div.bar", filter, told), grid);
      let last = null;
      const kinds = { closed: "good", open: "bad", half_open: "warn", forced_open: "bad", forced_closed: "blue", disabled: "blue" };
      const ring = 2 * Math.PI * 15;
      const make = (b) => {
        const card = h("article.card.breaker", h("div", h("h2"), h("span.soft")), h("div"), h("div.wide"), h("div.facts.wide"), h("p.soft.wide"));
        const left = s("circle.left", { cx: 19, cy: 19, r: 15, transform: "rotate(-90 19 19)" }), text = s("text", { x: 19, y: 23, "text-anchor": "middle" });
        card.ring = s("svg", { width: 38, height: 38, role: "img" }, s("circle.track", { cx: 19, cy: 19, r: 15 }), left, text);
        card.left = left; card.text = text; card.state = pill("");
        card.children[1].append(card.state, card.ring);
        const send = (what) => () => order("breakers", { group: card.b.group, name: card.b.name, do: what }, () => `${card.b.name}: ${words(what)}`);
        card.buttons = h("div.acts.wide", act("Force open", send("force_open"), "bad"), act("Force closed", send("force_closed")), act("Disable", send("disable")), act("Reset", send("reset")));
        card.append(card.buttons);
        card.meter = h("i.bad");
        card.children[2].append(h("div.meter", card.meter, h("i")));
        card.children[2].firstChild.lastChild.style.flex = "1";
        return card;
      };
      const update = (card, b) => {
        card.b = b;
        set(card, { "data-name": b.name });
        // The run of an instance tells a person nothing.
        say(card.children[0].children[0], b.name.replace(/#\d{13,}$/, ""));
        say(card.children[0].children[1], b.group);
        say(card.state, words(b.state) + (b.observing ? ", observing" : ""));
        card.state.className = "pill " + (kinds[b.state] ?? "");
        if (b.retry_ms == null) card.until = null;
        else {
          const until = last.at + b.retry_ms;
          if (!card.until) card.whole = b.retry_ms;
          card.until = until;
        }
        const w = b.window, all = w.calls;
        card.children[2].hidden = !all;
        card.meter.style.width = all ? (100 * w.failures) / all + "%" : "0";
        set(card.children[2], { title: `window: ${w.failures} of ${all} failed, ${w.slow} slow` });
        const facts = [["ok", b.successes], ["failed", b.failures], ["refused", b.refused], ["ignored", b.ignored]];
        if (all) facts.unshift(["in window failed", share(w.failures, all)]);
        keyed(card.children[3], facts, ([name]) => name, ([name]) => h("span", h("b"), " " + name), (f, [, n]) => say(f.firstChild, typeof n === "number" ? count(n) : n));
        say(card.children[4], b.cause ? "because of: " + b.cause : "");
        card.children[4].hidden = !b.cause;
        card.buttons.hidden = !session.operator;
        tick(card);
      };
      const tick = (card) => {
        card.ring.style.display = card.until ? "" : "none";
        if (!card.until) return;
        const ms = Math.max(0, card.until - performance.now());
        set(card.left, { "stroke-dasharray": `${(ring * Math.min(1, ms / (card.whole || 1))).toFixed(1)} ${ring.toFixed(1)}` });
        set(card.ring, { "aria-label": `next probe in ${Math.ceil(ms / 1e3)} s` });
        say(card.text, Math.ceil(ms / 1e3));
      };
      const draw = () => {
        if (!last) return;
        const wanted = filter.value.trim().toLowerCase(), rank = (b) => (b.state === "closed" ? 1 : 0);
        const shown = last.breakers.filter((b) => (b.group + " " + b.name).toLowerCase().includes(wanted)).sort((a, b) => rank(a) - rank(b));
        const open = last.breakers.filter((b) => b.state !== "closed").length;
        say(told, `${count(last.breakers.length)} circuits, ${count(open)} not closed`);
        keyed(grid, shown, (b) => b.group + "\n" + b.name, make, update);
      };
      filter.addEventListener("input", draw);
      const timer = setInterval(() => { for (const card of grid.children) tick(card); }, 250);
      return {
        show(data) { last = { ...data, at: performance.now() }; draw(); },
        blank: (data) => !data.breakers.length, filter, close: () => clearInterval(timer),
      };
    },
  },

  limits: {
    title: "Limits",
    empty: ["No limits yet", "Limits of rate and of concurrency appear here with their quota, their use, what they refuse, and the keys that are refused most.", "Sources::new().limit(\"api\", limiter.clone())"],
    build(root) {
      const allowed = rates(), refused = rates();
      const quota = (l) => l.quota ? `${count(l.quota.tokens)} in ${span(l.quota.period_ms)}, burst ${count(l.quota.burst)}` : l.places != null ? `${count(l.places)} at once` : "–";
      const use = (l, cell) => {
        const part = l.places != null ? l.in_flight / l.places : l.remaining != null && l.quota ? 1 - l.remaining / l.quota.burst : null;
        if (part == null) return "–";
        const meter = cell.meter ??= h("i"), all = cell.all ??= h("div.meter", meter);
        meter.style.width = Math.round(100 * Math.min(1, Math.max(0, part))) + "%";
        meter.className = part >= 1 ? "bad" : part > 0.8 ? "warn" : "";
        set(all, { title: `${Math.round(part * 100)} %`, role: "meter", "aria-valuenow": Math.round(part * 100), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "use" });
        if (all.parentNode !== cell) cell.replaceChildren(all);
      };
      const view = table([
        ["Limit", "", (l) => l.name], ["Quota", "", quota], ["Use", "", use],
        ["Let through", "n", (l) => perSecond(allowed(l.name, l.allowed))],
        ["Refused", "n", (l, cell) => { const rate = refused(l.name, l.refused); cell.className = "n" + (rate ? " bad-ink" : ""); return perSecond(rate); }],
        ["in all", "n", (l) => `${count(l.allowed)} / ${count(l.refused)}`],
        ["Waiting", "n", (l) => count(l.waiting)], ["Keys", "n", (l) => count(l.keys)], ["Made room", "n", (l) => count(l.evictions)],
        ["Refused most", "", (l) => l.top.map((t) => `${t.key} (${count(t.refused)})`).join(", ")],
      ], (l) => l.name);
      root.append(h("section.card", view.root));
      return { show: (data) => view.show(data.limits), blank: (data) => !data.limits.length, again: true };
    },
  },

  traces: {
    title: "Traces",
    empty: ["No traces yet", "Every call that ends appears here within a second: the latest, the slowest and the failed, each as a waterfall with its logs beside.", "Sources::new().traces(telemetry.store())"],
    build(root) {
      const filter = h("input", { type: "search", placeholder: "Filter by name, service or id   /", "aria-label": "Filter" }), told = h("span.soft");
      const views = ["Latest", "Slowest", "Failed", "Logs"];
      // One that was begun elsewhere is called as its first span is.
      const named = (t) => t.root ?? t.first;
      let view = "Latest", all = new Map(), logs = [], longest = 1;
      const buttons = views.map((name) => h("button", { type: "button", "aria-pressed": name === view, onclick: () => { view = name; buttons.forEach((b) => set(b, { "aria-pressed": b.textContent === view ? "true" : "false" })); draw(); } }, name));
      const list = windowed({
        label: "Traces", kind: "trace", height: 30, key: (t) => t.trace_id, pick: (t) => pick("traces", t.trace_id),
        make: () => { const bar = h("i"); const row = h("div", h("span.mono.soft"), h("span"), h("div.meter", bar), h("span.n"), h("span.n")); row.bar = bar; return row; },
        update(row, t) {
          const [at, name, , long, spans] = row.children;
          say(at, clock(t.start_unix_nanos / 1e6));
          say(name, named(t) + " · " + t.services.join(", "));
          name.className = t.failures ? "bad-ink" : "";
          row.bar.style.width = Math.max(2, 100 * Math.sqrt(t.duration_nanos / longest)) + "%";
          row.bar.className = t.failures ? "bad" : "";
          say(long, span(t.duration_nanos / 1e6));
          say(spans, t.failures ? `${t.failures} of ${t.spans} fail` : t.spans + (t.spans === 1 ? " span" : " spans"));
        },
      });
      const lines = windowed({
        label: "Logs", kind: "log", height: 26, key: (l) => l.number, pick: (l) => (l.trace_id ? pick("traces", l.trace_id) : detail.replaceChildren(h("h2", "A log without a trace"), fields(l))),
        make: () => h("div.mono", h("span.soft"), h("span"), h("span"), h("span.soft")),
        update(row, l) {
          const [at, level, message, service] = row.children;
          say(at, clock(l.unix_nanos / 1e6)); say(level, l.level); say(message, l.message); say(service, l.service);
          level.className = message.className = "l-" + l.level;
        },
      });
      lines.root.hidden = true;
      const detail = h("section.card.in", { "aria-label": "One trace", tabindex: -1 }, h("p.soft", "Pick a trace to see its waterfall and its logs."));
      root.append(h("div.bar", buttons, filter, told), h("div.two", h("section.card", list.root, lines.root), detail));
      const fields = (of) => h("dl", Object.entries(of).flatMap(([k, v]) => v == null || v === "" ? [] : [h("dt", words(k)), h("dd.mono", typeof v === "object" ? JSON.stringify(v) : v)]));
      const draw = () => {
        const wanted = filter.value.trim().toLowerCase();
        list.root.hidden = view === "Logs"; lines.root.hidden = view !== "Logs";
        if (view === "Logs") {
          const shown = wanted ? logs.filter((l) => (l.message + " " + l.service + " " + (l.trace_id ?? "")).toLowerCase().includes(wanted)) : logs;
          say(told, `${count(shown.length)} logs`);
          return lines.show(shown);
        }
        let shown = [...all.values()];
        if (view === "Failed") shown = shown.filter((t) => t.failures);
        if (wanted) shown = shown.filter((t) => (named(t) + " " + t.services.join(" ") + " " + t.trace_id).toLowerCase().includes(wanted));
        shown.sort(view === "Slowest" ? (a, b) => b.duration_nanos - a.duration_nanos : (a, b) => b.start_unix_nanos - a.start_unix_nanos);
        longest = shown.reduce((most, t) => Math.max(most, t.duration_nanos), 1);
        say(told, `${count(shown.length)} traces`);
        list.show(shown);
      };
      const take = (traces) => {
        for (const trace of traces) all.set(trace.trace_id, trace);
        if (all.size > 11000) all = new Map([...all].sort((a, b) => b[1].start_unix_nanos - a[1].start_unix_nanos).slice(0, 10000));
      };
      let asked = 0;
      const open = async (id) => {
        const mine = ++asked;
        list.mark(id);
        try {
          const trace = await get("api/traces/" + encodeURIComponent(id));
          if (mine === asked) detail.replaceChildren(...waterfall(trace));
        } catch (error) { if (mine === asked) detail.replaceChildren(h("p.soft", "Trace " + id + ": " + error.message)); }
      };
      const waterfall = ({ trace_id, spans, logs }) => {
        const begin = Math.min(...spans.map((r) => r.span.start_unix_nanos)), end = Math.max(...spans.map((r) => r.span.start_unix_nanos + r.span.duration_nanos)), whole = Math.max(1, end - begin);
        const about = h("div");
        const rows = spans.flatMap((row) => {
          const r = row.span, left = (100 * (r.start_unix_nanos - begin)) / whole, wide = (100 * r.duration_nanos) / whole;
          const bar = h("i." + r.kind + (row.failed ? ".bad" : "")), text = h("span", span(r.duration_nanos / 1e6));
          bar.style.left = left + "%"; bar.style.width = wide + "%";
          if (left + wide <= 70) text.style.left = left + wide + 0.5 + "%"; else if (left > 20) text.style.right = 100 - left + 0.5 + "%"; else { text.style.right = 100 - left - wide + 0.5 + "%"; text.className = "within"; }
          const name = h("button" + (row.failed ? ".bad-ink" : ""), { type: "button", title: row.name, onclick: () => about.replaceChildren(h("h3", row.name), fields(r)) }, row.name + (r.attempt > 1 ? ` · attempt ${r.attempt}` : ""));
          const label = h("div", name);
          label.style.paddingLeft = row.depth * 12 + "px";
          return [label, h("div.lane", bar, text)];
        });
        const lines = logs.flatMap((l) => [h("span.soft", "+" + span(Math.max(0, l.unix_nanos - begin) / 1e6)), h("span.l-" + l.level, l.level), h("span", l.message + " ", h("span.soft", l.service + " " + Object.entries(l.fields).map(([k, v]) => k + "=" + v).join(" ")))]);
        return [h("h2", spans[0]?.name ?? "Only logs are left"), h("p.soft.mono", trace_id + (spans.length ? " · " + day(begin / 1e6) + " · " + span(whole / 1e6) : "")), h("p"), h("div.fall", rows), about, h("h3", logs.length ? `${logs.length} logs` : "No logs in this trace"), h("div.loglines", lines)];
      };
      filter.addEventListener("input", draw);
      get("api/traces/all").then((data) => { take(data.traces); draw(); }, () => {});
      return {
        show(data) { take(data.newest); logs = data.logs; draw(); },
        blank: (data) => data.absent || (!data.newest.length && !data.logs.length), open, filter,
      };
    },
  },

  sagas: {
    title: "Sagas",
    empty: ["No sagas yet", "Sagas appear here by state, those that wait for somebody first; each with the diagram of its run, its journal, and what an operator can do about it.", "Sources::new().sagas(&orchestrator)"],
    build(root) {
      const kinds = { completed: "good", compensated: "blue", running: "good", turning_back: "warn", stuck: "bad", blocked: "bad", closed: "", done: "good", acting: "blue", failed: "bad", unknown: "bad", undoing: "warn", undone: "blue", undo_failed: "bad", skipped: "soft", halted: "bad", waiting: "soft" };
      const bar = h("div.bar"), note = h("p.bad-ink");
      const filter = h("input", { type: "search", placeholder: "Filter by id or definition   /", "aria-label": "Filter" });
      let state = "", last = null, shownId = null, asked = 0;
      const list = windowed({
        label: "Sagas", kind: "saga", height: 30, key: (g) => g.saga, pick: (g) => pick("sagas", g.saga),
        make: () => h("div", h("span"), h("span"), h("span.n.soft")),
        update(row, g) {
          say(row.children[0], g.definition + " · " + g.saga);
          say(row.children[1], words(g.state)); row.children[1].className = "pill " + (kinds[g.state] ?? "");
          say(row.children[2], clock(g.changed_at));
        },
      });
      const detail = h("section.card.in", { "aria-label": "One saga", tabindex: -1 }, h("p.soft", "Pick a saga to see its run."));
      root.append(note, bar, h("div.two", h("section.card", list.root), detail));
      const counts = h("span");
      bar.append(counts, filter);
      const draw = () => {
        if (!last) return;
        say(note, last.error ? "The store does not answer: " + last.error : "");
        const wanted = filter.value.trim().toLowerCase();
        keyed(counts, [{ state: "", count: (last.counts ?? []).reduce((n, c) => n + c.count, 0) }, ...(last.counts ?? [])], (c) => c.state, (c) => h("button", { type: "button", onclick: () => { state = c.state; draw(); } }), (button, c) => {
          say(button, (c.state ? words(c.state) : "all") + " " + count(c.count));
          set(button, { "aria-pressed": state === c.state ? "true" : "false" });
        });
        list.show((last.sagas ?? []).filter((g) => (!state || g.state === state) && (!wanted || (g.saga + " " + g.definition).toLowerCase().includes(wanted))));
        const now = (last.sagas ?? []).find((g) => g.saga === shownId);
        if (now && now.records !== detail.records) open(shownId);
      };
      const diagram = ({ shape, report }) => {
        const w = 150, high = 74, gap = 200, names = shape.steps.map((_, at) => at);
        const edges = shape.steps.flatMap((step, at) => [...step.needs, ...(step.after ?? [])].map((from) => [from, at]));
        const { place, columns, rows } = places(names, edges, gap, high);
        const failures = [report.failure, ...report.halts, ...report.undo_failures].filter(Boolean);
        const wide = columns * gap - gap + w + 8, tall = rows * high;
        return h("div.scroll", s("svg.map", { width: wide, height: tall, viewBox: `-4 -4 ${wide} ${tall}`, role: "img", "aria-label": "Steps: " + report.steps.map((step) => step.name + " " + words(step.state)).join(", ") },
          edges.map(([from, to]) => s("path.edge", { d: curve(place.get(from), place.get(to), w, 26), "stroke-width": 1.4 })),
          names.map((at) => {
            const step = report.steps[at], p = place.get(at), failed = failures.filter((f) => f.step === step.name).reduce((n, f) => n + f.attempts, 0);
            const kind = shape.steps[at].kind ?? "action";
            return s("g", { transform: `translate(${p.x} ${p.y})` }, s("rect", { class: "node " + (kinds[step.state] ?? ""), width: w, height: 54 }), s("text", { x: 10, y: 19 }, step.name.length > 20 ? step.name.slice(0, 19) + "…" : step.name),
              s("text.small", { x: 10, y: 35 }, words(step.state) + (failed ? ` · ${failed} attempt${failed === 1 ? "" : "s"} failed` : "")), s("text.small", { x: 10, y: 48 }, typeof kind === "object" ? Object.keys(kind)[0] : kind === "action" ? (shape.steps[at].undo ? "can be undone" : "") : kind), s("title", step.name));
          })));
      };
      const attempts = (all) => h("div.scroll", h("table", h("tbody", all.map((a) => h("tr", h("td.mono.soft", clock(a.began_at)), h("td", `${a.direction === "undo" ? "undo of " : ""}${a.step}, attempt ${a.attempt}`), h("td.n", span(a.duration_ms)), h("td" + (a.failed ? ".bad-ink" : ".soft"), a.failed ? a.error ?? "failed" : "done"))))));
      const journal = ({ history, shape }) => {
        const name = (at) => shape.steps[at]?.name ?? "";
        const text = (event) => {
          if (typeof event === "string") return [words(event), ""];
          const [kind, of] = Object.entries(event)[0];
          const failure = of.failure ? `${of.failure.errors?.at(-1) ?? ""} (${of.failure.attempts} attempts)` : "";
          const rest = of.reason ?? of.note ?? (of.output !== undefined ? JSON.stringify(of.output) : of.input !== undefined ? JSON.stringify(of.input) : "");
          return [words(kind) + (of.step != null ? " " + name(of.step) : of.name ? " " + of.name : ""), [failure, of.refused, rest].filter(Boolean).join(" · ").slice(0, 400)];
        };
        const lines = history.map((record) => { const [what, more] = text(record.event); return h("tr", h("td.mono.soft", clock(record.at)), h("td", what), h("td.soft", more)); });
        return h("div.scroll", h("table", h("tbody", lines)));
      };
      const open = async (id) => {
        const mine = ++asked;
        shownId = id; list.mark(id);
        try {
          const run = await get("api/sagas/" + encodeURIComponent(id));
          if (mine !== asked) return;
          const { report } = run;
          detail.records = last?.sagas?.find((g) => g.saga === id)?.records;
          const send = (what, title, more = {}) => async () => {
            const reason = await ask({ title, text: `${report.definition} ${id}`, label: "Why? It stands in the journal." });
            if (reason != null && await order("sagas", { saga: id, do: what, note: reason, ...more }, (d) => `${title}: ${words(d.state)}${d.node ? " for " + d.node : ""}`)) open(id);
          };
          const undos = report.steps.filter((step) => ["undo_failed", "undoing"].includes(step.state)), halted = report.steps.filter((step) => ["halted", "acting"].includes(step.state));
          const supply = (step) => async () => {
            const output = await ask({ title: "Supply what " + step.name + " returned", text: "It goes on with this, as if the step had returned it.", label: "JSON" });
            if (output == null) return;
            try { JSON.parse(output); } catch (error) { return tell("That is no JSON: " + error.message); }
            return send("supply", "Supply " + step.name, { step: step.name, output: JSON.parse(output) })();
          };
          const over = ["completed", "compensated", "closed"].includes(report.state);
          detail.replaceChildren(...[
            h("h2", report.definition + " v" + report.version + " "), h("p", pill(words(report.state), kinds[report.state]), h("span.soft.mono", " " + id + " "), toTrace(run.trace_id)),
            report.blocked && h("p.bad-ink", report.blocked), report.failure && h("p.bad-ink", `${report.failure.step}: ${report.failure.errors?.at(-1) ?? ""}`),
            h("p"), diagram(run),
            over ? null : acts(act("Retry", send("retry", "Retry")), act("Turn back", send("turn_back", "Turn back")), undos.map((step) => act("Skip undo of " + step.name, send("skip", "Skip " + step.name, { step: step.name }))), halted.map((step) => act("Supply " + step.name, supply(step))), act("Close", send("close", "Close"), "bad")),
            run.attempts?.length ? h("h3", "Attempts") : null, run.attempts?.length ? attempts(run.attempts) : null,
            h("h3", "Journal"), journal(run)].filter(Boolean));
        } catch (error) { if (mine === asked) detail.replaceChildren(h("p.soft", "Saga " + id + ": " + error.message)); }
      };
      filter.addEventListener("input", draw);
      return { show(data) { last = data; draw(); }, blank: (data) => data.absent || (!data.error && !data.sagas.length), open, filter };
    },
  },

  broker: {
    title: "Broker",
    empty: ["No messages yet", "Groups appear here with what waits, what is being handled and how fast; and dead letters with their payload, to be redriven or purged.", "Sources::new().broker(&broker)"],
    build(root) {
      const came = rates(), done = rates(), note = h("p.bad-ink"), facts = h("p.facts");
      const view = table([
        ["Group", "", (g) => g.group], ["Listens to", "mono", (g) => g.pattern], ["Lag", "n", (g, cell) => { cell.className = "n" + (g.lag > 1000 ? " warn-ink" : ""); return count(g.lag); }],
        ["In flight", "n", (g) => count(g.in_flight)], ["Oldest", "n", (g) => span(g.oldest_ms)],
        ["In", "n", (g) => perSecond(came(g.group, g.published + g.redriven))], ["Done", "n", (g) => perSecond(done(g.group, g.acked))],
        ["Again", "n", (g) => count(g.redelivered)], ["Dead", "n", (g, cell) => { cell.className = "n" + (g.dead ? " bad-ink" : ""); return count(g.dead); }],
        ["Dropped", "n", (g) => count(g.dropped + g.expired)], ["Refused", "n", (g) => count(g.refused)], ["Members", "n", (g) => count(g.subscriptions)],
      ], (g) => g.group);
      const topics = table([
        ["Topic", "mono", (t) => t.pattern], ["Groups", "", (t) => t.groups.map((g) => g.group).join(", ")],
        ["Lag of the slowest", "n", (t) => count(Math.max(...t.groups.map((g) => g.lag)))], ["Given to groups", "n", (t) => count(t.groups.reduce((n, g) => n + g.published, 0))],
      ], (t) => t.pattern);
      const list = windowed({
        label: "Dead letters", kind: "letter", height: 30, low: true, key: (l) => l.id, pick: (l) => pick("broker", l.id),
        make: () => h("div", h("span.soft.n"), h("span"), h("span.soft"), h("span.n.soft")),
        update(row, l) {
          const [id, subject, reason, at] = row.children;
          say(id, l.id); say(subject, l.subject + (l.group ? " → " + l.group : "")); say(reason, l.error ?? l.reason); say(at, clock(l.died_at));
        },
      });
      const detail = h("section.card.in", { "aria-label": "One dead letter", tabindex: -1 }, h("p.soft", "Pick a dead letter to see its payload."));
      const tools = h("div.bar"), more = act("Show more", async () => { const page = await get("api/letters?after=" + letters.at(-1).id); older.push(...page.letters); draw(); });
      const letterside = h("section", h("h3", "Dead letters"), tools, h("div.two", h("section.card", list.root), detail));
      root.append(note, facts, h("section.card", h("h2", "Groups"), view.root), letterside, h("section.card", h("h2", "Topics"), topics.root));
      let last = null, older = [], letters = [], asked = 0, shownId = null;
      const all = (what, title, text, tellDone) => async () => {
        const group = await ask({ title, text, label: "Only of this group (empty: of all)" });
        if (group != null) await order("letters", { do: what, ...(group.trim() ? { group: group.trim() } : {}) }, tellDone);
      };
      const buttons = [act("Redrive all", all("redrive_all", "Redrive dead letters", "They go back to their groups, 100 a second.", (d) => `${d.redriven} went back, ${d.kept} stayed`)), act("Purge", all("purge", "Purge dead letters", "They are deleted for good.", (d) => `${d.purged} purged`), "bad")];
      tools.append(...buttons, more);
      const draw = () => {
        letters = [...(last.letters ?? [])];
        const newest = letters.at(-1)?.id ?? 0;
        older = letters.length < 200 ? [] : older.filter((l) => l.id > newest);
        letters.push(...older);
        buttons.forEach((button) => { button.hidden = !session.operator; });
        // Those of other processes are not read on from here.
        more.hidden = letters.length >= last.dead_letters || letters.length < 200 || typeof letters.at(-1).id === "string";
        list.show(letters);
        detail.hidden = false;
        if (shownId != null && letters.length < 200 && !letters.some((l) => l.id === shownId)) { shownId = null; detail.replaceChildren(h("p.soft", "This dead letter is gone.")); }
      };
      const open = async (id) => {
        const mine = ++asked;
        const key = /^\d+$/.test(id) ? +id : id;
        shownId = key; list.mark(key);
        try {
          const l = await get("api/letters/" + encodeURIComponent(id));
          if (mine !== asked) return;
          let text = l.payload.text ?? l.payload.hex;
          try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* as it is */ }
          const failure = (f) => f && `attempt ${f.attempt}, ${f.kind}, ${day(f.at)}: ${f.error}`;
          const rows = { group: l.group, reason: l.reason, attempts: l.attempts, "redriven before": l.redrives, published: day(l.published_at), died: day(l.died_at), message: l.message, "first failure": failure(l.first_failure), "last failure": failure(l.last_failure) };
          detail.replaceChildren(...[h("h2", l.subject), h("p", pill("dead letter " + key, "bad"), " ", toTrace(l.trace_id)),
            h("dl", Object.entries(rows).flatMap(([k, v]) => (v == null ? [] : [h("dt", k), h("dd", v)]))),
            acts(act("Redrive", () => order("letters", { do: "redrive", id: key }, () => `Dead letter ${key} went back to ${l.group}`))),
            h("h3", `Payload, ${bytes(l.bytes)}`), h("pre", text), l.headers.length ? h("h3", "Headers") : null, h("dl", l.headers.flatMap(([k, v]) => [h("dt.mono", k), h("dd.mono", v)]))].filter(Boolean));
        } catch (error) { if (mine === asked) detail.replaceChildren(h("p.soft", "Dead letter " + id + ": " + error.message)); }
      };
      return {
        show(data) {
          last = data;
          say(note, data.error ? "The dead letters cannot be read: " + data.error : "");
          const figures = [["dead letters", `${count(data.dead_letters)} (${bytes(data.dead_letter_bytes)})`], ["made room", count(data.dead_letters_dropped)], ["no group wanted", count(data.unroutable)], ["came twice", count(data.duplicates)]];
          keyed(facts, figures, ([k]) => k, ([k]) => h("span", h("b"), " " + k), (f, [, v]) => say(f.firstChild, v));
          view.show(data.groups);
          const by = new Map();
          for (const g of data.groups) by.set(g.pattern, [...(by.get(g.pattern) ?? []), g]);
          topics.show([...by].map(([pattern, groups]) => ({ pattern, groups })));
          letterside.hidden = !data.dead_letters && !(data.letters ?? []).length;
          draw();
        },
        blank: (data) => data.absent || (!data.error && !data.groups.length && !data.dead_letters), open, again: true,
      };
    },
  },

  canary: {
    title: "Canary",
    empty: ["No split traffic yet", "Each split of traffic appears here with the weights and the figures of its variants, to be rolled out, promoted or aborted.", "Sources::new().split(\"products\", &split)"],
    build(root) {
      const grid = h("div.grid.wide"), speed = rates(), colours = ["", "blue", "warn", "bad"];
      root.append(grid);
      const make = () => {
        const card = h("article.card", h("h2"), h("p"), h("div.meter"), h("p"));
        card.view = table([["Variant", "", (v) => v.name], ["To", "soft", (v) => v.upstream], ["Weight", "n", (v) => v.part], ["Rate", "n", (v) => perSecond(speed(v.of + "\n" + v.name, v.calls))], ["Calls", "n", (v) => count(v.calls)], ["Failed", "n", (v, cell) => { cell.className = "n" + (v.failures ? " bad-ink" : ""); return share(v.failures, v.calls); }], ["p95", "n", (v) => span(v.p95_ms)]], (v) => v.name);
        card.tools = h("div.acts");
        card.append(card.view.root, card.tools);
        return card;
      };
      const show = (data) => keyed(grid, data.splits, (c) => c.name, make, (card, c) => {
        const all = c.variants.reduce((n, v) => n + v.weight, 0), r = c.rollout;
        say(card.children[0], c.name);
        say(card.children[1], r ? `${r.variant}: ${words(r.state)} at ${r.percent} %, ${count(r.calls)} calls in this step, ${share(r.failures, r.calls)} failed` + (r.why ? ". " + r.why : "") : "No rollout");
        card.children[1].className = r?.state === "aborted" ? "bad-ink" : "soft";
        keyed(card.children[2], c.variants, (v) => v.name, () => h("i"), (part, v) => { part.style.width = (all ? (100 * v.weight) / all : 0) + "%"; part.className = colours[c.variants.indexOf(v) % 4]; set(part, { title: v.name }); });
        card.view.show(c.variants.map((v) => ({ ...v, of: c.name, part: share(v.weight, all) })));
        card.tools.hidden = !session.operator;
        const send = (what, variant, done) => async () => {
          if (await ask({ title: done, text: `${c.name}: this changes where requests go, at once.` }) != null) await order("canary", { split: c.name, do: what, variant }, () => done);
        };
        keyed(card.tools, [...c.variants.flatMap((v) => [["roll_out", v.name, "Roll out " + v.name], ["promote", v.name, "Promote " + v.name]]), ["abort", "", "Abort"]], ([what, v]) => what + "\n" + v, ([what, v, name]) => act(name, send(what, v, name), what === "abort" ? "bad" : ""), () => {});
      });
      return { show, blank: (data) => !data.splits.length, again: true };
    },
  },

  switches: {
    title: "Switches",
    empty: ["No switches yet", "What operators turn on and off, or up and down, appears here: the faults of a drill, flags, the rate of a load.", "Sources::new().switches(\"faults\", faults)"],
    build(root) {
      const grid = h("div.grid.wide");
      root.append(grid);
      const turn = (item, to) => order("switches", { group: item.group, name: item.name, to }, () => `${item.name}: ${to === true ? "on" : to === false ? "off" : to}`);
      const make = (item) => {
        const row = h("div.switch", { "data-name": item.name }, h("div", h("b"), h("p.soft")));
        row.knob = item.on == null ? h("input", { type: "number", step: 1, onchange: (event) => { const field = event.target; const back = () => { field.value = row.item.number; }; if (field.value && field.reportValidity()) turn(row.item, +field.value).then((done) => done || back()); else back(); } })
          : h("button", { type: "button", role: "switch", onclick: () => turn(row.item, !row.item.on) });
        row.append(row.knob);
        return row;
      };
      const update = (row, item) => {
        const { knob } = row;
        row.item = item;
        say(row.firstChild.children[0], item.name);
        say(row.firstChild.children[1], item.meaning + (item.locked ? ". " + item.locked : ""));
        set(knob, { "aria-label": item.name, disabled: !session.operator || !!item.locked });
        if (item.on != null) { set(knob, { "aria-checked": String(item.on) }); say(knob, item.on ? "On" : "Off"); return; }
        set(knob, { min: item.least, max: item.most });
        if (document.activeElement !== knob) knob.value = item.number;
      };
      const show = (data) => {
        const groups = new Map();
        for (const item of data.switches) groups.set(item.group, [...(groups.get(item.group) ?? []), item]);
        keyed(grid, [...groups], ([name]) => name, () => h("section.card", h("h2"), h("div")), (card, [name, items]) => {
          say(card.firstChild, name);
          keyed(card.lastChild, items, (item) => item.name + (item.on == null), make, update);
        });
      };
      return { show, blank: (data) => !data.switches.length };
    },
  },
};

// ---- the shell

const names = Object.keys(pages);
let current = null, stop = null;

names.forEach((name, at) => $("nav").append(h("a", { href: "#" + name, id: "to-" + name }, h("kbd", { "aria-hidden": "true" }, at + 1), pages[name].title)));

function go() {
  let name, id;
  try { [name, id] = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { /* somebody cut it short */ }
  const page = pages[name] ? name : "map";
  if (current?.name === page) { if (id) current.open?.(id); return; }
  stop?.abort();
  current?.close?.();
  stop = new AbortController();
  const main = $("main"), body = h("div"), nothing = empty(...pages[page].empty), trouble = h("p.bad-ink");
  main.replaceChildren(trouble, nothing, body);
  body.hidden = true;
  nothing.hidden = true;
  const built = pages[page].build(body);
  current = { name: page, ...built };
  document.title = pages[page].title + " · gusset";
  main.setAttribute("aria-label", pages[page].title);
  for (const other of names) set($("to-" + other), { "aria-current": other === page ? "page" : null });
  let idle, shown;
  const show = (data) => {
    const blank = built.blank(data);
    nothing.hidden = !blank;
    body.hidden = blank;
    // The other pages say it in words of their own.
    say(trouble, blank || ["breakers", "limits", "traces", "canary", "switches"].includes(page) ? data.error : "");
    shown = data;
    if (!blank) built.show(data);
    // What stands still sends nothing; its rates are 0 then.
    clearTimeout(idle);
    if (built.again && !blank) idle = setTimeout(() => { if (shown === data && current?.name === page) built.show(data); }, 2500);
  };
  current.redraw = () => shown && show(shown);
  follow(page, show, stop.signal);
  if (id) built.open?.(id);
}

async function who() {
  try {
    session = await get("api/session");
    if (token && !session.operator) { token = ""; sessionStorage.removeItem("token"); tell("That is not the operator's token."); }
  } catch { /* the line says that there is no answer */ }
  $("operator").hidden = !session.can_act;
  say($("operator"), session.operator ? "Operator: leave" : "Read only: become operator");
  current?.redraw?.();
  go();
}
$("operator").addEventListener("click", async () => {
  if (session.operator) { token = ""; sessionStorage.removeItem("token"); return who(); }
  const shown = await ask({ title: "Become operator", text: "The token stays in this tab.", label: "Operator's token", secret: true, strong: "Enter" });
  if (!shown) return;
  token = shown.trim();
  sessionStorage.setItem("token", token);
  await who();
});

$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === current?.filter) return event.target.blur();
  if (typing) return;
  if (event.key >= "1" && event.key <= String(names.length)) location.hash = names[event.key - 1];
  if (event.key === "/" && current?.filter) { event.preventDefault(); current.filter.focus(); }
});
addEventListener("hashchange", go);
await who();
