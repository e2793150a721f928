// The live page: asks once a second how it is and shows it. Everything is set as text, never as HTML: ids, errors and
// bodies come from foreign messages.
"use strict";

const byId = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
const LATE = 7000; // milliseconds without an answer until the page says so; a lost broker is waited for less long
const PATIENCE = 20000; // and until it asks anew
const SVG = "http://www.w3.org/2000/svg";
const POINTS = 90; // of a curve
let curves = {}; // of the queues that this process consumes
let opened = null; // the queue whose dead letters are shown

const number = (value) => (value === null ? "-" : value.toLocaleString("en"));
const rate = (value) => value.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

function age(seconds) {
  if (seconds === null) return "-";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (seconds >= size) return Math.floor(seconds / size) + unit;
  }
  return Math.floor(seconds) + "s";
}

// A table: columns are [heading, class, what a row says there: a text, or a button as {text, kind, key, click}].
// Cells that say the same as before stay as they are, so that what has the focus keeps it.
function fill(table, columns, rows, empty) {
  const width = rows.length ? columns.length : 1;
  while (table.rows.length < Math.max(rows.length, 1) + 1) table.append(document.createElement("tr"));
  while (table.rows.length > Math.max(rows.length, 1) + 1) table.rows[table.rows.length - 1].remove();
  columns.forEach(([heading, kind], at) => put(table.rows[0], at, "th", heading, kind));
  rows.forEach((row, line) => {
    columns.forEach(([, kind, value], at) => put(table.rows[line + 1], at, "td", value(row), kind));
  });
  if (!rows.length) put(table.rows[1], 0, "td", empty, "none");
  while (table.rows[1].cells.length > width) table.rows[1].cells[width].remove();
  table.rows[1].cells[0].colSpan = rows.length ? 1 : columns.length;
}

function put(line, at, tag, said, kind) {
  const cell = line.cells[at] || line.appendChild(document.createElement(tag));
  const key = said.key === undefined ? said : said.key + (said.text ?? "");
  if (cell.className === kind && cell.dataset.said === key) return;
  cell.className = kind;
  cell.dataset.said = key;
  cell.title = kind === "text" || kind === "name" ? said : "";
  cell.replaceChildren(said.key === undefined ? said : said.points ? curve(said.points) : button(said));
}

function button({ text, kind, click }) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.className = kind;
  made.addEventListener("click", click);
  return made;
}

// The last 15 minutes as a line; gaps are where nobody knew.
function curve(points) {
  const most = Math.max(1, ...points);
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${POINTS} 24`);
  const line = picture.appendChild(document.createElementNS(SVG, "path"));
  const drawn = points.map((point, at) =>
    point === null ? "" : `${points[at - 1] == null ? "M" : "L"}${POINTS - points.length + at + 0.5} ${22 - 20 * point / most}h.1`);
  line.setAttribute("d", drawn.join(""));
  picture.appendChild(document.createElementNS(SVG, "title")).textContent = `15 minutes, at most ${number(Math.max(0, ...points))}`;
  return picture;
}

const curveOf = (kind) => (q) => {
  const points = (curves[q.queue] || {})[kind];
  return points ? { key: points.join(" "), points } : "";
};

const deadButton = (q) => ({
  text: number(q.dead),
  kind: "dead",
  key: `${q.queue} `,
  click: () => show(q),
});

const queueColumns = [
  ["queue", "name", (q) => q.queue],
  ["waiting", "number", (q) => number(q.waiting)],
  ["15 minutes", "curve", curveOf("waiting")],
  ["delayed", "number", (q) => number(q.delayed)],
  ["dead", "number", (q) => (q.dead ? deadButton(q) : number(q.dead))],
  ["consumers", "number", (q) => number(q.consumers)],
  ["per second", "number", (q) => rate(q["per second"])],
  ["15 minutes", "curve", curveOf("per second")],
  ["in flight", "number", (q) => number(q["in flight"])],
  ["oldest", "number", (q) => age(q.oldest)],
  ["last error", "text", (q) => q["last error"]],
];
const processColumns = [
  ["process", "name", (p) => p.process],
  ["services", "text", (p) => p.services],
  ["up", "number", (p) => age(p.up)],
  ["per second", "number", (p) => rate(p["per second"])],
  ["reconnects", "number", (p) => number(p.reconnects)],
  ["brokers", "text", (p) => p.brokers],
  ["failing producers", "text", (p) => p["failing producers"]],
];

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function tell(text, kind) {
  byId("state").textContent = text;
  document.body.className = kind;
}

async function look() {
  const late = setTimeout(() => tell("no answer yet", "lost"), LATE);
  try {
    const now = await ask("status.json", { signal: AbortSignal.timeout(PATIENCE) });
    curves = now.curves;
    fill(byId("queues"), queueColumns, now.queues, "no process has reported a queue yet");
    fill(byId("processes"), processColumns, now.processes, "no process has reported yet");
    if (now.processes.length) byId("graph").src = "graph.svg?" + Date.now();
    tell("live, " + new Date().toLocaleTimeString("en-GB"), "");
  } catch {
    tell("this process does not answer any more", "lost");
  }
  clearTimeout(late);
  setTimeout(look, 1000);
}

async function show(queue) {
  opened = `dead/${queue.queue.split("/").map(encodeURIComponent).join("/")}`;
  byId("dead-title").textContent = `Dead letters of ${queue.queue}`;
  byId("replay-all").hidden = !token;
  byId("letters").replaceChildren();
  byId("said").textContent = "loading";
  byId("dead").showModal();
  await list(token ? "" : "to see bodies and replay, run with --http-replay and open this page by its address or as localhost");
}

async function list(said) {
  const columns = [
    ["id", "name", (l) => l.id],
    ["age", "number", (l) => age(l.age)],
    ["reason", "name", (l) => l.reason],
    ["error", "text", (l) => l.error],
  ];
  // first, so that it is in sight on a telephone too
  if (token) {
    const again = (l) => ({ text: "replay", kind: "", key: l.id, click: () => replay("?message=" + encodeURIComponent(l.id)) });
    columns.unshift(["", "", again]);
    columns.push(["body", "text", (l) => l.body]);
  }
  try {
    const { letters, there } = await ask(opened);
    fill(byId("letters"), columns, letters, "no dead letters");
    const shown = `${number(letters.length)} of ${number(there)} shown`;
    byId("said").textContent = [said, shown].filter(Boolean).join("; ");
  } catch (error) {
    byId("said").textContent = [said, error.message].filter(Boolean).join("; ");
  }
}

async function replay(which) {
  byId("said").textContent = "replaying";
  try {
    const done = await ask(`${opened}/replay${which}`, { method: "POST", headers: { "X-Mqasync-Token": token } });
    await list(`replayed ${number(done.replayed)}`);
  } catch (error) {
    byId("said").textContent = error.message;
  }
}

byId("close").addEventListener("click", () => byId("dead").close());
byId("replay-all").addEventListener("click", () => replay(""));
look();
