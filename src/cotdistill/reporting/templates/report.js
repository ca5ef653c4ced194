"use strict";
// The rows come compressed, in the page and, for a large run, in files beside it. All text is put in as text.
const STEP = 60;
const SLICES = { held_out: "Held-out", unseen: "Another kind", traces: "Training traces" };
const OUTCOMES = { gained: "gained", lost: "lost", both: "both right", neither: "both wrong", ungraded: "not graded" };
const TAGS = { truncated: "an answer cut off", no_answer: "no answer", error: "a failure", bad_step: "false arithmetic",
  teaches: "may teach", dropped: "dropped" };
const MARKS = { no_answer: "no answer", truncated: "cut off", error: "failed", ungraded: "not graded" };
const TEACHES = new Set(["correct", "agrees", "unchecked"]);

const by = (id) => document.getElementById(id);
const rows = [];
let missing = [];
const chosen = { slice: "held_out", outcome: "", tags: new Set(), category: "", search: "" };
let found = [];

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const words = (status) => status.replaceAll("_", " ");

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function add(page) {
  for (const row of page) {
    row.tags = row.tags || [];
    row.all = [row.question, row.gold || "", row.category || "", row.id,
      ...row.answers.flatMap((a) => [...a.text.map((piece) => (typeof piece === "string" ? piece : piece[1])), a.note || ""]),
    ].join("").toLowerCase();
    rows.push(row);
  }
}

// Filters

function matches(row, except) {
  return row.slice === chosen.slice
    && (except === "outcome" || !chosen.outcome || row.outcome === chosen.outcome)
    && (except === "tags" || [...chosen.tags].every((tag) => row.tags.includes(tag)))
    && (!chosen.category || row.category === chosen.category)
    && (!chosen.search || row.all.includes(chosen.search));
}

function tally(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return counts;
}

function chip(text, count, pressed, act) {
  const button = make("button", { type: "button", "aria-pressed": String(pressed) }, text,
    make("span", { class: "n" }, count.toLocaleString("en")));
  button.addEventListener("click", act);
  return button;
}

// A chip that is pressed is drawn anew; the focus stays with the one in its place.
function chips(id, made) {
  const group = by(id);
  const at = [...group.children].indexOf(document.activeElement);
  group.replaceChildren(...made);
  group.closest("fieldset").hidden = made.length < 2 && id !== "tags";
  if (at >= 0) (group.children[at] || group.lastElementChild)?.focus();
}

function drawControls() {
  const here = rows.filter((row) => row.slice === chosen.slice);
  const slices = tally(rows.map((row) => row.slice));
  chips("slices", Object.keys(SLICES).filter((key) => slices.has(key)).map((key) =>
    chip(SLICES[key], slices.get(key), chosen.slice === key, () => {
      Object.assign(chosen, { slice: key, outcome: "", category: "" });
      chosen.tags.clear();
      draw();
    })));
  const outcomes = tally(here.filter((row) => matches(row, "outcome")).map((row) => row.outcome));
  const known = chosen.slice === "traces" ? [...new Set(here.map((row) => row.outcome))] : Object.keys(OUTCOMES);
  const there = known.filter((key) => here.some((row) => row.outcome === key));
  const every = [...outcomes.values()].reduce((a, b) => a + b, 0);
  chips("outcomes", [["", "all", every], ...there.map((key) => [key, OUTCOMES[key] || words(key), outcomes.get(key) || 0])]
    .map(([key, text, count]) => chip(text, count, chosen.outcome === key, () => {
      chosen.outcome = key;
      draw();
    })));
  const tagged = tally(here.filter((row) => matches(row, "tags")).flatMap((row) => row.tags));
  chips("tags", Object.keys(TAGS).filter((tag) => here.some((row) => row.tags.includes(tag))).map((tag) =>
    chip(TAGS[tag], tagged.get(tag) || 0, chosen.tags.has(tag), () => {
      if (!chosen.tags.delete(tag)) chosen.tags.add(tag);
      draw();
    })));
  by("tags").closest("fieldset").hidden = !by("tags").children.length;
  const categories = [...new Set(here.map((row) => row.category).filter(Boolean))].sort();
  by("category-label").hidden = categories.length < 2;
  by("category").replaceChildren(make("option", { value: "" }, "every category"),
    ...categories.map((name) => make("option", { value: name, selected: name === chosen.category }, name)));
}

// The list

function draw() {
  drawControls();
  found = rows.filter((row) => matches(row));
  by("rows").replaceChildren();
  const all = rows.filter((row) => row.slice === chosen.slice).length;
  const what = chosen.slice === "traces" ? "traces" : "questions";
  const left = chosen.slice === "traces" ? Number(by("rows").dataset.left) : 0;
  let text = found.length === all ? `${all.toLocaleString("en")} ${what}.`
    : `${found.length.toLocaleString("en")} of ${all.toLocaleString("en")} ${what}.`;
  if (left) text += ` ${left.toLocaleString("en")} more are in 2_traces.jsonl only.`;
  if (missing.length) {
    text += ` Not all are here: ${missing.join(", ")} could not be read. Keep these files beside the page.`;
  }
  by("count").textContent = text;
  more();
}

function more() {
  const list = by("rows");
  const from = list.children.length;
  list.append(...found.slice(from, from + STEP).map((row, i) => item(row, from + i)));
  by("more").hidden = list.children.length >= found.length;
}

function item(row, at) {
  const trace = row.slice === "traces";
  const kind = trace ? (TEACHES.has(row.outcome) ? "teaches" : "dropped") : row.outcome;
  const button = make("button", { type: "button", "aria-expanded": "false", "aria-controls": `row-${at}` },
    make("span", { class: `outcome ${kind}` }, OUTCOMES[row.outcome] || words(row.outcome)),
    make("span", { class: "said" }, row.question),
    make("span", { class: "golden" }, row.gold ? `= ${row.gold}` : ""));
  const detail = make("div", { class: "detail", id: `row-${at}`, hidden: true });
  const line = make("li", {}, button, detail);
  button.addEventListener("click", () => open(line, row, detail.hidden));
  return line;
}

function open(line, row, yes) {
  const [button, detail] = line.children;
  if (yes && !detail.children.length) fill(detail, row);
  detail.hidden = !yes;
  line.classList.toggle("open", yes);
  button.setAttribute("aria-expanded", String(yes));
}

function fill(detail, row) {
  const facts = [row.gold && `right answer ${row.gold}`, row.category, row.id].filter(Boolean).join(" · ");
  const order = ["teacher", "base", "student"];
  const rank = (answer) => (order.includes(answer.by) ? order.indexOf(answer.by) : order.length);
  const answers = [...row.answers].sort((a, b) => rank(a) - rank(b));
  detail.append(make("p", { class: "asked" }, row.question), make("p", { class: "meta" }, facts),
    make("div", { class: "answers" }, ...answers.map((answer) => shown(answer, row.slice === "traces"))));
}

function shown(answer, trace) {
  const good = trace ? TEACHES.has(answer.mark) : answer.mark === "right";
  const mark = make("span", { class: `mark ${good ? "right" : answer.mark === "ungraded" ? "" : "wrong"}` },
    MARKS[answer.mark] || words(answer.mark));
  const text = make("p", { class: "text" }, ...answer.text.map((piece) => {
    if (typeof piece === "string") return piece;
    const [kind, written] = piece;
    if (kind === "bad") return make("span", { class: "bad", title: "this equation is false" }, written);
    if (kind === "cut") return make("em", {}, written);
    return make("mark", { class: kind.replace("answer", "marked"),
      title: kind.startsWith("answer") ? "the marked answer" : "read as the answer" }, written);
  }));
  const notes = [answer.tokens ? `${answer.tokens.toLocaleString("en")} tokens` : ""];
  if (answer.answer && answer.read) notes.push(`read as ${answer.answer} (${words(answer.read)})`);
  if (answer.false) notes.push(`false: ${answer.false.join("; ")}`);
  if (answer.note) notes.push(answer.note);
  return make("div", { class: "answer", role: "group", "aria-label": answer.by }, make("h3", {}, answer.by, mark),
    answer.text.length ? text : make("p", { class: "note" }, "Nothing was written."),
    make("p", { class: "note" }, notes.filter(Boolean).join(" · ")));
}

// Keys

function step(by_) {
  const list = by("rows");
  const here = document.activeElement?.closest("#rows > li");
  const at = here ? [...list.children].indexOf(here) + by_ : 0;
  if (at >= list.children.length) more();
  const line = list.children[Math.max(0, at)];
  if (!line) return;
  line.firstElementChild.focus({ preventScroll: true });
  line.scrollIntoView({ block: "nearest" });
}

function clearSearch() {
  by("search").value = chosen.search = "";
  draw();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  const inList = event.target.closest("#rows");
  if (event.key === "Escape" && event.target.id === "search") {
    clearSearch();
    by("search").blur();
  } else if (typing) {
    return;
  } else if (event.key === "/") {
    by("search").focus();
    by("search").scrollIntoView({ block: "nearest" });
  } else if (event.key === "j" || (inList && event.key === "ArrowDown")) {
    step(1);
  } else if (event.key === "k" || (inList && event.key === "ArrowUp")) {
    step(-1);
  } else {
    return;
  }
  event.preventDefault();
});

// Colours: as the system says, or light, or dark, remembered where the browser lets a file remember

const THEMES = ["", "light", "dark"];

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  by("theme").textContent = `Colours: ${name || "system"}`;
}

function remembered(name) {
  try {
    if (name === undefined) return localStorage.getItem("cotdistill-theme") || "";
    localStorage.setItem("cotdistill-theme", name);
  } catch { /* a file may not be allowed to */ }
  return "";
}

let now = Math.max(0, THEMES.indexOf(remembered()));
theme(THEMES[now]);
by("theme").hidden = false;
by("theme").addEventListener("click", () => {
  now = (now + 1) % THEMES.length;
  theme(THEMES[now]);
  remembered(THEMES[now]);
});

by("controls").addEventListener("submit", (event) => event.preventDefault());
by("search").addEventListener("input", () => {
  chosen.search = by("search").value.trim().toLowerCase();
  draw();
});
by("category").addEventListener("change", () => {
  chosen.category = by("category").value;
  draw();
});
by("more").addEventListener("click", more);

// Reading: what is in the page first, then the files beside it, one after the other

const waiting = [];
window.cotdistillRows = (packed) => waiting.push(packed);

function beside(name) {
  return new Promise((done) => {
    const script = make("script", { src: name });
    script.addEventListener("load", () => done(true));
    script.addEventListener("error", () => done(false));
    document.body.append(script);
  });
}

async function start() {
  try {
    for (const page of document.querySelectorAll("script.packed")) add(await unpack(page.textContent));
  } catch {
    by("count").textContent = "This browser cannot unpack the questions; one of 2023 or later can.";
    return;
  }
  by("controls").hidden = false;
  draw();
  for (const name of JSON.parse(by("beside").textContent)) {
    if (await beside(name)) add(await unpack(waiting.pop()));
    else missing = [...missing, name];
  }
  if (missing.length || JSON.parse(by("beside").textContent).length) draw();
  document.documentElement.dataset.ready = "";
}

start();
