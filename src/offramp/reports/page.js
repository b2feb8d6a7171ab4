// Links the charts, which Vega draws: one chosen point, the shown runs and policies, commands, and the table of points.
const $ = (id) => document.getElementById(id);
const bytes = Uint8Array.from(atob($("data").textContent), (c) => c.charCodeAt(0));
const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
const study = await new Response(unpacked).json();
const specifications = JSON.parse($("specifications").textContent);
const { runs, policies } = study;
const views = {};
let chosen; // the point that all charts show

// Numbers as text
const percent = (x) => (x == null ? "–" : (100 * x).toFixed(1) + " %");
const range = (low, high) => `[${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
const delta = (x) => String(+x.toPrecision(6)).replace("-", "−").replace("Infinity", "∞");
const word = (x) => String(x).replace("Infinity", "inf"); // as Python reads it
const number = (x) => ({ inf: Infinity, "-inf": -Infinity })[x] ?? x;
const prefixed = (x) => {
  const power = Math.min(5, Math.max(0, Math.floor(Math.log10(Math.abs(x) || 1) / 3)));
  return (x / 1000 ** power).toPrecision(3) + ["", " k", " M", " G", " T", " P"][power];
};
const cost = (x) => prefixed(x) + (study.unit ? ` ${study.unit}` : "");

// Points: one object per policy, run and threshold
const points = [];
const curves = study.curves.map((curve) => {
  const { run, policy, ...columns } = curve;
  return columns.threshold.map((_, step) => {
    const its = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[step]]));
    its.threshold = number(its.threshold);
    const point = { id: points.length, step, run, policy: policies[policy].label, ...its };
    points.push(point);
    return point;
  });
});
const curveOf = (run, label) => curves.find((its) => its[0].run === run && its[0].policy === label);
const nameOf = (label) => policies.find((policy) => policy.label === label).name;
const shares = (point) => point.exit.map((share, i) => `${i + 1}: ${percent(share)}`).join(", ");

function described(point) {
  const full = runs[point.run].full;
  return [
    `${nameOf(point.policy)}, ${runs[point.run].name}, δ = ${delta(point.threshold)}`,
    `${study.quality} ${percent(point.accuracy)} ${range(point.accuracy_low, point.accuracy_high)}`
      + ` (full model: ${percent(full.accuracy)})`,
    `cost ${cost(point.cost)}, ${percent(point.cost / full.cost)}`
      + ` ${range(point.cost_low / full.cost, point.cost_high / full.cost)} of the full model`,
    `samples by exit ${shares(point)}`,
  ];
}

// What is shown in the first chart
const checked = (name) => [...document.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value);

function shown() {
  const [systems, seeds, labels] = ["system", "seed", "policy"].map(checked);
  return curves.filter(([{ run, policy }]) =>
    systems.includes(runs[run].system) && seeds.includes(String(runs[run].seed)) && labels.includes(policy)).flat();
}

async function set(view, data) {
  for (const [name, rows] of Object.entries(data)) views[view].data(name, rows.map((row) => ({ ...row })));
  await views[view].runAsync();
}

async function showCurves() {
  const rows = shown();
  const used = new Set(rows.map((row) => row.run));
  const names = runs.flatMap(({ name, full }, run) => (used.has(run) && used.size > 1 ? [{ name, ...full }] : []));
  await set("chart", { points: rows, runs: names });
  if ($("points").open) fillTable();
}

// The chosen point
async function choose(point) {
  chosen = point;
  const box = document.querySelector(`input[name="policy"][value="${CSS.escape(point.policy)}"]`);
  const run = runs[point.run];
  const boxes = [box, ...document.querySelectorAll('input[name="system"], input[name="seed"]')]
    .filter((its) => its === box || its.value === run.system || its.value === String(run.seed));
  const hidden = boxes.filter((its) => !its.checked);
  hidden.forEach((its) => { its.checked = true; });
  if (hidden.length) await showCurves();
  const curve = curveOf(point.run, point.policy);
  const accuracies = curve.map((its) => 100 * its.validation_accuracy);
  $("run").value = point.run;
  $("policy").value = point.policy;
  Object.assign($("threshold"), { max: curve.length - 1, value: point.step });
  $("threshold").setAttribute("aria-valuetext", `δ = ${delta(point.threshold)}`);
  $("threshold-value").textContent = delta(point.threshold);
  Object.assign($("wanted"), { min: Math.floor(10 * Math.min(...accuracies)) / 10,
    max: Math.floor(10 * Math.max(...accuracies) + 1e-9) / 10 });
  if (document.activeElement !== $("wanted")) $("wanted").value = 100 * point.validation_accuracy;
  $("wanted-value").textContent = `${Number($("wanted").value).toFixed(1)} %`;
  $("said").textContent = described(point).slice(1).join("; ");
  const exits = point.exit.map((share, i) =>
    ({ exit: i + 1, share, accuracy: point.exit_accuracy[i], estimate: point.exit_estimate[i] }));
  const bins = point.bin_share
    .map((share, i) => ({ share, accuracy: point.bin_accuracy[i], estimate: point.bin_estimate[i] }))
    .filter((its) => its.estimate != null);
  const coverages = study.coverages.map((coverage, i) => ({ coverage, risk: 1 - point.coverage[i] }));
  showCommands();
  await Promise.all([
    set("chart", { focus: [point], curve }),
    set("chart-exits", { exits }),
    set("chart-confidence", { exits: exits.filter((its) => its.estimate != null) }),
    set("chart-reliability", { bins }),
    set("chart-coverage", { coverages: point.coverage[0] == null ? [] : coverages }),
  ]);
}

// The cheapest point that is this accurate on validation data, as `offramp export --accuracy` chooses
function cheapest(curve, accuracy) {
  const enough = curve.filter((its) => its.validation_accuracy >= accuracy - 1e-9);
  const start = enough[0] ?? curve.at(-1);
  return enough.reduce((best, its) => (its.validation_cost < best.validation_cost ? its : best), start);
}

// Commands
const quoted = (word) => (/^[\w@%+=:,.\/-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

function commands({ run, policy, threshold, accuracy }) {
  const { validation, test, policies: fitted, weights } = runs[run].files;
  const [label, value] = [quoted(policy), word(threshold)];
  const level = Math.min(0.99, Math.ceil(1000 * (1 - accuracy) + 1e-6) / 1000);
  const its = {};
  if (fitted && test) {
    its["Evaluate this point"] = `offramp evaluate --policies ${quoted(fitted)} --only ${label} --test ${quoted(test)}`
      + ` --thresholds=${value} --out point.csv`;
  }
  if (fitted && validation) {
    its[`Certify: the cheapest threshold with an error of at most ${percent(level)}`] = `offramp certify`
      + ` ${quoted(validation)} --policies ${quoted(fitted)} --only ${label} --level ${level} --out certified.csv`;
  }
  if (fitted && weights) {
    its["Export this point"] = `offramp export ${weights} --policies ${quoted(fitted)}`
      + ` --policy ${label} --threshold=${value} --out bundle`;
    its["Run it on new inputs"] = "offramp run bundle INPUTS --out answers.csv";
  }
  return its;
}

function showCommands() {
  const blocks = Object.entries(commands(chosen)).map(([what, line]) => {
    const block = $("command").content.cloneNode(true);
    block.querySelector("span").textContent = what;
    block.querySelector("pre").textContent = line;
    const button = block.querySelector("button");
    button.addEventListener("click", async () => {
      await copy(line);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return block;
  });
  $("commands").replaceChildren(...blocks);
  $("no-weights").hidden = Boolean(runs[chosen.run].files.weights);
}

async function copy(text) { // a page that was opened from a file may not use the clipboard
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// The table of points
const columns = {
  System: (its) => runs[its.run].system,
  Seed: (its) => runs[its.run].seed,
  Policy: (its) => its.policy,
  "δ": (its) => its.threshold,
  [study.quality]: (its) => its.accuracy,
  low: (its) => its.accuracy_low,
  high: (its) => its.accuracy_high,
  cost: (its) => its.cost,
  "cost low": (its) => its.cost_low,
  "cost high": (its) => its.cost_high,
  [`${study.quality} on validation`]: (its) => its.validation_accuracy,
  "cost on validation": (its) => its.validation_cost,
};
let sorted = { column: null, sign: 1 };

function fillTable() {
  const read = columns[sorted.column];
  const rows = shown();
  if (read) {
    rows.sort((a, b) => {
      const [x, y] = [read(a), read(b)];
      return sorted.sign * (x < y ? -1 : x > y ? 1 : 0);
    });
  }
  const cell = (value) => (typeof value === "string" ? value : delta(value));
  $("rows").replaceChildren(...rows.map((point) => {
    const row = document.createElement("tr");
    Object.values(columns).forEach((its) => {
      const value = its(point);
      const td = row.insertCell();
      td.textContent = cell(value);
      if (typeof value === "number") td.className = "number";
    });
    const button = Object.assign(document.createElement("button"), { textContent: "Choose" });
    button.addEventListener("click", () => choose(point));
    row.insertCell().append(button);
    return row;
  }));
  $("count").textContent = `${rows.length} points`;
}

function csv() {
  const most = Math.max(...runs.map((_, run) => curves.find((its) => its[0].run === run)[0].exit.length));
  const exits = Array.from({ length: most }, (_, i) => i);
  const header = ["system", "seed", "policy", "threshold", "accuracy", "accuracy_low", "accuracy_high", "cost",
    "cost_low", "cost_high", "validation_accuracy", "validation_cost", ...exits.map((i) => `exit_${i + 1}`)];
  const field = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const cells = (its) => [...Object.values(columns).map((read) => read(its)), ...exits.map((i) => its.exit[i] ?? "")];
  const lines = points.map((its) => cells(its).map((value) => field(word(value))).join(","));
  return [header.join(","), ...lines].join("\n") + "\n";
}

function tableHead() {
  const row = $("head");
  for (const [name, read] of Object.entries(columns)) {
    const th = Object.assign(document.createElement("th"), { scope: "col" });
    if (typeof read(points[0]) === "number") th.className = "number";
    const button = Object.assign(document.createElement("button"), { textContent: name, type: "button" });
    button.addEventListener("click", () => {
      sorted = { column: name, sign: sorted.column === name ? -sorted.sign : 1 };
      [...row.cells].forEach((other) => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
      fillTable();
    });
    th.append(button);
    row.append(th);
  }
  row.append(document.createElement("th"));
}

// Hovering
function tip(_, event, item, id) {
  const box = $("tip");
  box.hidden = id == null;
  if (box.hidden) return;
  box.textContent = described(points[id]).join("\n");
  const { innerWidth, innerHeight } = window;
  box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 8))}px`;
}

// Claims show what they are about in the first chart
function showOnly(systems, labels) {
  const pick = (name, wanted) => {
    const boxes = [...document.querySelectorAll(`input[name="${name}"]`)];
    if (!boxes.some((box) => wanted.includes(box.value))) return;
    boxes.forEach((box) => { box.checked = wanted.includes(box.value); });
  };
  pick("system", systems);
  pick("policy", labels);
  const rows = shown();
  if (rows.length && !rows.includes(chosen)) {
    choose(cheapest(curveOf(rows[0].run, rows[0].policy), chosen.validation_accuracy));
  }
  showCurves();
  $("explore").scrollIntoView({ behavior: "smooth" });
}

// Start
for (const [name, specification] of Object.entries(specifications)) {
  const options = { renderer: "svg", actions: false, defaultStyle: false, tooltip: tip, logLevel: 1 };
  views[name] = (await vegaEmbed(`#${name}`, specification, options)).view;
}
for (const [run, its] of runs.entries()) $("run").add(new Option(its.name, run));
for (const { label, name } of policies) $("policy").add(new Option(name, label));
const [system, label, threshold] = study.start;
const first = runs.findIndex((run) => run.system === system);
const [boxes, values] = [["system", "seed", "policy"], [[system], [String(runs[first].seed)], study.shown]];
boxes.forEach((name, i) => document.querySelectorAll(`input[name="${name}"]`).forEach((box) => {
  box.checked = values[i].includes(box.value);
  box.addEventListener("change", showCurves);
}));
await showCurves();
const curve = curveOf(first, label);
await choose(curve.find((its) => its.threshold === number(threshold)) ?? curve.at(-1));
views.chart.addSignalListener("picked", (_, { id }) => { if (id?.length) choose(points[id[0]]); });
const again = () => curveOf(Number($("run").value), $("policy").value);
$("threshold").addEventListener("input", () => choose(again()[Number($("threshold").value)]));
$("wanted").addEventListener("input", () => choose(cheapest(again(), Number($("wanted").value) / 100)));
for (const id of ["run", "policy"]) {
  $(id).addEventListener("change", () => {
    const its = again() ?? curves.find(([point]) => point.run === Number($("run").value));
    choose(cheapest(its, chosen.validation_accuracy));
  });
}
tableHead();
$("points").addEventListener("toggle", () => { if ($("points").open) fillTable(); });
$("csv").addEventListener("click", () => {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: "points.csv" });
  link.click();
});
document.querySelectorAll("button[data-systems]").forEach((button) => {
  const { systems, policies: labels } = button.dataset;
  button.addEventListener("click", () => showOnly(JSON.parse(systems), JSON.parse(labels)));
});
document.documentElement.dataset.ready = "true"; // for tests
