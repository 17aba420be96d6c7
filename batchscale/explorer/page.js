// The explorer: draws what contents.py has put together. It works out means over the seeds that are shown, and nothing
// else: every breaking point was computed by the analysis, for every place of the sliders.
"use strict";

const MOST_LINES = 60;      // on the right; of more, some are drawn, from the first to the last
const MOST_SINGLE_RUNS = 30; // up to which the runs behind the means are drawn too
const PAGE = 25;            // rows of the table at a time
const CURRENCY = {updates: "updates", time: "time"}; // by what is shown on the left; of everything else, accuracy
const LABELS = {
  accuracy: "test accuracy (%)",
  generalization_error: "generalization error (points)",
  train_loss: "training loss",
  test_loss: "test loss",
  noise_scale: "gradient noise scale (images)",
  updates: "updates to target",
  time: "training time to target (s)",
};
const ALONG = {epoch: "epoch", updates: "updates", images: "images", running_time: "seconds of training"};
const PERCENT = new Set(["accuracy", "generalization_error"]);
const FILTERS = ["mode", "size", "seed"];

const $ = id => document.getElementById(id);
const unique = values => [...new Set(values)];
const range = length => Array.from({length}, (_, at) => at);
const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
const spread = (items, most) => items.length <= most ? items
  : range(most).map(at => items[Math.round(at * (items.length - 1) / (most - 1))]);
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const capital = text => text[0].toUpperCase() + text.slice(1);

let all, group, state, hovered = null;

// ---- contents

async function unpacked(id) {
  const text = $(id).textContent.trim();
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : bytesOf(atob(text));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function bytesOf(text) { // for browsers before 2025
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

/** A group with what is looked up again and again: values of filters, and where the rows of a run begin. */
function prepared(found) {
  let start = 0;
  found.runs.forEach((run, at) => {
    run.at = at;
    run.start = start;
    start = run.end = start + found.rows.counts[at];
  });
  const {rows, runs, modes} = found;
  if (rows.updates) rows.images = runs.flatMap(run =>
    rows.updates.slice(run.start, run.end).map(value => value === null ? null : value * run.size));
  const sorted = key => unique(runs.map(run => run[key])).sort((a, b) => a - b);
  found.values = {mode: modes.map(mode => mode.name), size: sorted("size"), seed: sorted("seed")};
  const isNeeded = key => found.target.steps.some(step => step[key].some(value => value !== null));
  found.quantities = Object.keys(LABELS).filter(key =>
    key in CURRENCY ? isNeeded(key) : rows[key] || runs.some(run => run[key] != null));
  found.along = Object.keys(ALONG).filter(key => rows[key]);
  return found;
}

// ---- state, and the address that holds it

function initial(at) {
  const found = all.groups[at];
  return {
    group: at, y: found.quantities[0] || "accuracy", x: found.along[0] || "epoch",
    tolerance: found.tolerance.at, target: found.target.at,
    logSize: true, logY: null, logX: false, theme: "", run: null,
    mode: new Set(found.values.mode), size: new Set(found.values.size), seed: new Set(found.values.seed),
  };
}

const runName = run => `${group.modes[run.mode].name} ${run.size} ${run.seed}`;
const isLogY = () => state.logY === null ? state.y in CURRENCY || state.y === "noise_scale" : state.logY;

/** Only what differs from the view at first. */
function address() {
  const first = initial(state.group), parameters = new URLSearchParams();
  const add = (name, value, isDifferent) => isDifferent && parameters.append(name, value);
  add("group", state.group, state.group !== 0);
  for (const key of ["y", "x", "theme"]) add(key, state[key], state[key] !== first[key]);
  add("tolerance", group.tolerance.steps[state.tolerance].tolerance, state.tolerance !== first.tolerance);
  add("target", group.target.steps[state.target].target, state.target !== first.target);
  for (const key of ["logSize", "logY", "logX"]) add(key, Number(state[key]), state[key] !== first[key]);
  for (const key of FILTERS) {
    const chosen = group.values[key].filter(value => state[key].has(value));
    const left = group.values[key].filter(value => !state[key].has(value));
    const [name, listed] = chosen.length && chosen.length < left.length ? [key, chosen] : [`no-${key}`, left];
    for (const value of listed) parameters.append(name, value);
  }
  add("run", state.run === null ? "" : runName(group.runs[state.run]), state.run !== null);
  return parameters.toString();
}

/** The view of an address. What it names and this file lacks is left as it is at first. */
function viewOf(text) {
  const parameters = new URLSearchParams(text), at = Number(parameters.get("group"));
  group = all.groups[at] || all.groups[0];
  const view = initial(all.groups.indexOf(group));
  const among = (name, values) => values.includes(parameters.get(name)) && (view[name] = parameters.get(name));
  among("y", group.quantities);
  among("x", group.along);
  among("theme", ["light", "dark"]);
  for (const key of ["tolerance", "target"]) {
    const place = group[key].steps.findIndex(step => String(step[key]) === parameters.get(key));
    if (place >= 0) view[key] = place;
  }
  for (const key of ["logSize", "logY", "logX"]) if (parameters.has(key)) view[key] = parameters.get(key) === "1";
  for (const key of FILTERS) {
    const [chosen, left] = [parameters.getAll(key), parameters.getAll(`no-${key}`)];
    view[key] = new Set(group.values[key].filter(value =>
      chosen.length ? chosen.includes(String(value)) : !left.includes(String(value))));
  }
  const run = parameters.has("run") ? group.runs.findIndex(run => runName(run) === parameters.get("run")) : -1;
  if (run >= 0) view.run = run;
  return view;
}

let saving;
function saveSoon() { // browsers refuse to note an address many times a second
  clearTimeout(saving);
  saving = setTimeout(save, 150);
}
function save() {
  clearTimeout(saving);
  const text = address();
  try {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  } catch { /* a frame without an address of its own, as in a notebook */ }
}

// ---- what is shown

const isShown = run => state.mode.has(group.modes[run.mode].name) && state.size.has(run.size) && state.seed.has(run.seed);
const shownRuns = () => group.runs.filter(isShown);
const currency = () => CURRENCY[state.y] || "accuracy";
const tolerance = () => group.tolerance.steps[state.tolerance];
const target = () => group.target.steps[state.target];
const scaled = (key, value) => value === null || value === undefined ? null : PERCENT.has(key) ? 100 * value : value;

/** The verdict of a compared mode in one currency, at the places of the sliders. */
function verdict(name, what) {
  const inAccuracy = tolerance().modes[name];
  return what === "accuracy" ? inAccuracy : target().modes[name][inAccuracy.beginning][what];
}

/** By place of a run: what the left view shows of it. */
function finalValues() {
  if (!(state.y in CURRENCY)) return group.runs.map(run => scaled(state.y, run[state.y]));
  const values = group.runs.map(() => null), step = target();
  step.runs.forEach((run, at) => { if (run !== null) values[run] = step[state.y][at]; });
  return values;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1000) {
    const whole = String(Math.round(value));
    return Math.abs(value) < 100000 ? whole : whole.replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }
  return String(Number(value.toPrecision(3)));
}
function shownValue(key, value) {
  if (value === null || value === undefined) return "–";
  if (key.endsWith("loss")) return value.toPrecision(3);
  if (!PERCENT.has(key)) return number(value);
  return (Math.round(1000 * value) / 10 + 0).toFixed(1).replace("-", "−") + (key === "accuracy" ? " %" : "");
}

// ---- colours

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = () => document.documentElement.dataset.theme === "dark";
/** That of the figures; on a dark page the same hue, lighter, and white in place of black. */
const colour = mode => !isDark() ? mode.color : mode.color === "#000000" ? "#e8eaed" : mixed(mode.color, "#ffffff", 0.78);

function mixed(hex, other, share) {
  const parts = text => [1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16));
  const [ours, theirs] = [parts(hex), parts(other)];
  const channel = at => Math.round(share * ours[at] + (1 - share) * theirs[at]).toString(16).padStart(2, "0");
  return `#${[0, 1, 2].map(channel).join("")}`;
}
/** From light to dark by batch size, or, on a dark page, from dark to light. */
function shade(mode, size) {
  const sizes = group.values.size, share = sizes.length > 1 ? sizes.indexOf(size) / (sizes.length - 1) : 1;
  return mixed(colour(mode), css("--page"), 0.35 + 0.65 * share);
}

// ---- the view on the left

const narrow = () => $("left").clientWidth < 430;
const compared = () => group.modes.filter(mode => mode.is_compared && state.mode.has(mode.name));
const rowHeight = () => compared().length > 8 ? 11 : 17;
const band = () => compared().length * rowHeight() + 10; // below the axes: a row for each mode's breaking point
const MARGIN = {t: 8, b: 46, l: 56, r: 14};
const heightOf = id => (window.innerWidth <= 900 ? 360 : 420) + (id === "left" || window.innerWidth > 1080 ? Math.min(band(), id === "left" ? Infinity : 110) : 0);

function axis(title, isLog, more) {
  return {
    title: {text: title, font: {size: 13}, standoff: 6}, type: isLog ? "log" : "linear",
    gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, ticks: "", automargin: false,
    tickfont: {size: 12}, ...more,
  };
}
function layout(id, x, y, key) {
  return {
    autosize: true, margin: MARGIN, showlegend: false, hovermode: "closest", dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: getComputedStyle(document.body).fontFamily, color: css("--ink")},
    hoverlabel: {bgcolor: css("--field"), bordercolor: css("--line"), font: {color: css("--ink"), size: 13}, align: "left"},
    xaxis: x, yaxis: y, uirevision: key,
  };
}
function limits(values, isLog, pad = 0.05) {
  const known = values.filter(value => value !== null && (!isLog || value > 0)).map(value => isLog ? Math.log10(value) : value);
  if (!known.length) return [0, 1];
  let low = Infinity, high = -Infinity;
  for (const value of known) { low = Math.min(low, value); high = Math.max(high, value); }
  const room = pad * (high - low || Math.abs(high) || 1);
  return [low - room, high + room];
}
/** Ticks at recorded batch sizes, as many as there is room for. */
function sizeTicks(sizes, at) {
  const most = Math.floor(($("left").clientWidth - 70) / 46), [low, high] = at;
  const place = size => state.logSize ? Math.log10(size) : size;
  const kept = [];
  for (const size of sizes) {
    if (!kept.length || place(size) - place(kept[kept.length - 1]) >= 0.999 * (high - low) / most) kept.push(size);
  }
  return {tickvals: kept, ticktext: kept.map(String)};
}

function drawLeft() {
  const values = finalValues(), isLog = isLogY(), traces = [], curves = [];
  for (const mode of group.modes) {
    const own = group.runs.filter(run => isShown(run) && group.modes[run.mode] === mode && values[run.at] !== null);
    const onCurve = (state.y in CURRENCY ? curveToTarget(mode) : mode.curve).map(at => group.runs[at])
      .filter(run => state.size.has(run.size) && state.seed.has(run.seed));
    if (!state.mode.has(mode.name)) continue;
    const {sizes, means} = meansBySize(onCurve, values);
    if (own.length) curves.push({mode, sizes, means});
    if (own.length) traces.push({
      x: sizes, y: means, mode: "lines", line: {color: colour(mode), width: 2}, hoverinfo: "skip",
    });
    const many = own.length > 60;
    traces.push({
      x: own.map(run => run.size), y: own.map(run => values[run.at]), customdata: own.map(run => run.at), mode: "markers",
      marker: {color: colour(mode), symbol: mode.symbol, size: many ? 6 : 8, opacity: many ? 0.55 : 0.85},
      text: own.map(run => run.text ??= described(run)), hovertemplate: "%{text}<extra></extra>",
    });
  }
  const shown = traces.flatMap(trace => trace.y);
  if (state.y === "accuracy") shown.push(...group.tolerance.steps.filter(step => step.threshold).map(step => 100 * step.threshold));
  const vertical = limits(shown, isLog);
  const sizeLimits = limits(group.values.size.filter(size => state.size.has(size)), state.logSize, 0.04);
  const failed = state.y in CURRENCY ? [] : shownRuns().filter(run => run.status === "diverged");
  if (failed.length) traces.push({ // at the lower edge: they have no final value
    x: failed.map(run => run.size), y: failed.map(() => isLog ? 10 ** vertical[0] : vertical[0]), mode: "markers",
    customdata: failed.map(run => run.at), cliponaxis: false, text: failed.map(described), hovertemplate: "%{text}<extra></extra>",
    marker: {symbol: "x-thin", size: 9, line: {width: 2, color: failed.map(run => colour(group.modes[run.mode]))}},
  });
  const height = heightOf("left") - MARGIN.t - MARGIN.b;
  const label = LABELS[state.y];
  const size = axis("batch size", state.logSize, {anchor: "free", position: 0, range: sizeLimits, ...sizeTicks(group.values.size, sizeLimits)});
  const value = axis(label, isLog, {range: vertical, domain: [band() / height, 1], ...(isLog ? logTicks(vertical) : {})});
  const key = [state.group, state.y, state.logSize, isLog].join();
  $("left").style.height = `${heightOf("left")}px`;
  Plotly.react("left", traces, layout("left", size, value, key), CONFIG);
  drawLeftMarks();
  $("left-title").textContent = `${capital(label.replace(/ \(.*/, ""))} against batch size`;
  const points = {accuracy: "final accuracy", updates: "updates to target", time: "time to target"}[currency()];
  $("left-note").textContent = curves.length
    ? `A mark is a run, a line the mean over seeds${failed.length ? ", × a run that diverged" : ""}. `
      + (state.y in CURRENCY ? "Runs that miss the target, or reach it within their first epoch, have none. " : "")
      + `Bars below: breaking points in ${points}, with 95 % intervals.`
    : "Nothing to draw: no finished run passes the filter.";
  $("left").setAttribute("aria-label", `${label} against batch size. ` + curves.map(({mode, sizes, means}) =>
    sizes.length ? `${mode.label}: ${number(means[0])} at ${sizes[0]}`
      + (sizes.length > 1 ? `, ${number(means[means.length - 1])} at ${sizes[sizes.length - 1]}.` : ".") : "").join(" ")
    + " The table of runs has all values.");
}

/** Means over the runs of each size. Of what a target takes, geometric ones, as in the analysis, and none where a run
 *  did not reach it: the mean of the others would be one of the lucky ones. */
function meansBySize(runs, values) {
  const bySize = new Map();
  for (const run of runs) bySize.set(run.size, [...(bySize.get(run.size) || []), values[run.at]]);
  const isNeeded = state.y in CURRENCY;
  const known = [...bySize].map(([size, of]) => [size, isNeeded ? of : of.filter(value => value !== null)])
    .filter(([, of]) => of.length && !of.includes(null)).sort((a, b) => a[0] - b[0]);
  return {
    sizes: known.map(([size]) => size),
    means: known.map(([, of]) => isNeeded ? Math.exp(mean(of.map(Math.log))) : mean(of)),
  };
}

/** Ticks at powers of ten, where there are some; Plotly's own elsewhere. */
const logTicks = ([low, high]) => high - low > 1.2 ? {dtick: 1} : {nticks: 6};

/** Runs on a mode's curve to the target: those of its curve of final values, and what else it trained. */
function curveToTarget(mode) {
  const place = group.modes.indexOf(mode);
  const own = group.runs.filter(run => run.mode === place).map(run => run.at);
  return unique([...mode.curve, ...own]);
}

/** What is known about a run, as text. */
function facts(run) {
  const lines = [group.modes[run.mode].label, `batch size ${run.size}, seed ${run.seed}`];
  if (run.status !== "finished") lines.push(run.status);
  for (const key of ["accuracy", "generalization_error", "test_loss", "noise_scale"]) {
    if (run[key] !== null) lines.push(`${LABELS[key].replace(/ \(.*/, "")} ${shownValue(key, run[key])}`);
  }
  if (run.updates !== null) lines.push(`${number(run.updates)} updates`);
  if (run.running_time !== null) lines.push(`${number(run.running_time)} s of training`);
  return lines;
}

/** The same as markup, for Plotly. */
function described(run) {
  const [label, ...lines] = facts(run).map(escaped);
  return [`<b>${label}</b>`, ...lines].join("<br>");
}

// ---- what follows the sliders and the pointer: drawn over Plotly's views, so that nothing of these has to be drawn anew

const SVG = "http://www.w3.org/2000/svg";
function drawn(tag, properties, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** From values to pixels of a view: x and y, and its box. */
function scales(id) {
  const {xaxis, yaxis} = $(id).layout, width = $(id).clientWidth, height = heightOf(id);
  const box = {left: MARGIN.l, right: width - MARGIN.r, top: MARGIN.t, floor: height - MARGIN.b};
  box.bottom = box.floor - (yaxis.domain ? yaxis.domain[0] : 0) * (box.floor - box.top);
  const scale = (axis, from, to) => {
    const [low, high] = axis.range, place = axis.type === "log" ? Math.log10 : value => value;
    return value => from + (place(value) - low) / (high - low) * (to - from);
  };
  return {box, x: scale(xaxis, box.left, box.right), y: scale(yaxis, box.bottom, box.top)};
}

function overlay(id, marks) {
  let svg = $(id).querySelector("svg.overlay");
  if (!svg) $(id).append(svg = drawn("svg", {class: "overlay", "aria-hidden": "true"}));
  svg.replaceChildren(...marks);
}

/** A horizontal line with its name at the right end; of two that are near, one is named below its line. */
function level({box, y}, value, dash, name, isBelow) {
  const at = y(value);
  if (!(at >= box.top && at <= box.bottom)) return [];
  return [
    drawn("line", {x1: box.left, x2: box.right, y1: at, y2: at, class: "level", "stroke-dasharray": dash}),
    drawn("text", {x: box.right, y: isBelow || at < box.top + 16 ? at + 14 : at - 5, "text-anchor": "end", class: "level"}, name),
  ];
}

function drawLeftMarks() {
  if (!$("left").layout) return;
  const at = scales("left"), {box, x, y} = at, marks = [], limit = tolerance().threshold;
  if (state.y === "accuracy" && limit !== null) marks.push(...level(at, 100 * limit, "6 4", `threshold ${tolerance().shown}`));
  compared().forEach((mode, row) =>
    marks.push(...breakingPoint(mode, box.floor - band() + 8 + (row + 0.5) * rowHeight(), at)));
  const run = followed(), value = run && finalValues()[run.at];
  if (run && value !== null) marks.push(drawn("circle", {cx: x(run.size), cy: y(value), r: 8, class: "followed"}));
  overlay("left", marks);
}

/** A row below the axes: the interval as a bar, with an arrow at an open end, the estimate as a tick, and its number. */
function breakingPoint(mode, middle, {box, x, y}) {
  const what = currency(), point = verdict(mode.name, what), ink = colour(mode), half = Math.min(4, rowHeight() / 3), marks = [];
  const inside = value => Math.min(Math.max(x(value), box.left), box.right);
  let [low, high] = [point.low, point.high];
  if (low === null && high === null && point.estimate === null) [low, high] = [point.kept, point.lost]; // the side alone
  const isKnown = low !== null || high !== null;
  const [start, end] = [low === null ? box.left : inside(low), high === null ? box.right : inside(high)];
  const tick = point.estimate === null ? null : inside(point.estimate);
  if (isKnown) {
    marks.push(drawn("rect", {x: start, width: Math.max(end - start, 1), y: middle - half, height: 2 * half, fill: ink, opacity: 0.35}));
    const arrow = (tip, way) => drawn("path", {d: `M${tip},${middle}l${-7 * way},-5v10z`, fill: ink});
    if (low === null) marks.push(arrow(box.left, -1));
    if (high === null) marks.push(arrow(box.right, 1));
  }
  if (tick !== null) {
    marks.push(drawn("line", {x1: tick, x2: tick, y1: middle - 1.5 * half, y2: middle + 1.5 * half, stroke: ink, "stroke-width": 2.5}));
    const limit = tolerance().threshold;
    const top = state.y === "accuracy" && limit !== null ? Math.min(Math.max(y(100 * limit), box.top), box.bottom) : null;
    if (top !== null) marks.push(drawn("line",
      {x1: tick, x2: tick, y1: middle, y2: top, stroke: ink, "stroke-width": 1, "stroke-dasharray": "1 3"}));
  }
  const [first, last] = isKnown ? [Math.min(start, tick ?? start), Math.max(end, tick ?? end)] : [tick ?? box.left, tick ?? box.left];
  const isLeft = last > box.right - 48 && first > box.left + 48, isOn = last > box.right - 48 && !isLeft;
  marks.push(drawn("text", {
    x: isLeft ? first - 6 : isOn ? (tick ?? first) + 6 : last + 6, y: middle, "dominant-baseline": "central",
    "text-anchor": isLeft ? "end" : "start", class: "point", "font-size": rowHeight() > 12 ? 12 : 10,
  }, point.shown === "–" ? "undetermined" : point.shown));
  return marks;
}

// ---- the view on the right

const curveKey = () => state.y in CURRENCY ? "accuracy" : state.y;
const isLogCurve = () => state.y in CURRENCY ? false : isLogY();

/** Mean over runs at each epoch (of a log without epochs, each update), with the mean place along the axis. */
function meanCurve(runs, xs, ys) {
  if (runs.length === 1) return {x: xs.slice(runs[0].start, runs[0].end), y: ys.slice(runs[0].start, runs[0].end)};
  const clock = group.rows.epoch || group.rows.updates, [first] = runs, length = first.end - first.start;
  const isAlike = run => run.end - run.start === length
    && clock[run.start] === clock[first.start] && clock[run.end - 1] === clock[first.end - 1];
  const sums = new Map(), inStep = runs.every(isAlike); // then the row says which epoch it is, which is faster
  const at = inStep ? range(length).map(() => [0, 0, 0]) : [];
  for (const run of runs) for (let row = run.start; row < run.end; row++) {
    if (ys[row] === null || xs[row] === null) continue;
    let sum = at[row - run.start];
    if (!inStep) {
      sum = sums.get(clock[row]);
      if (!sum) sums.set(clock[row], sum = [0, 0, 0]);
    }
    sum[0] += xs[row];
    sum[1] += ys[row];
    sum[2]++;
  }
  const points = inStep ? at : [...sums].sort((a, b) => a[0] - b[0]).map(entry => entry[1]);
  const known = points.filter(sum => sum[2]);
  return {x: known.map(sum => sum[0] / sum[2]), y: known.map(sum => sum[1] / sum[2])};
}

function drawRight() {
  const key = curveKey(), xs = group.rows[state.x], factor = PERCENT.has(key) ? 100 : 1, isLog = isLogCurve();
  const ys = group.rows[key];
  const runs = ys && xs ? shownRuns().filter(run => run.end > run.start) : [];
  const lines = new Map();
  for (const run of runs) {
    const name = `${run.mode} ${run.size}`;
    if (lines.has(name)) lines.get(name).push(run); else lines.set(name, [run]);
  }
  const some = spread([...lines.values()], MOST_LINES), traces = [];
  if (runs.length <= MOST_SINGLE_RUNS) {
    for (const run of runs) if (lines.get(`${run.mode} ${run.size}`).length > 1) traces.push({
      ...times(meanCurve([run], xs, ys), factor), mode: "lines", hoverinfo: "skip", opacity: 0.35,
      line: {color: shade(group.modes[run.mode], run.size), width: 1},
    });
  }
  for (const of of some) {
    const [first] = of, mode = group.modes[first.mode], curve = times(meanCurve(of, xs, ys), factor);
    const what = of.length > 1 ? `mean of ${of.length} seeds` : `seed ${first.seed}`;
    traces.push({
      ...curve, mode: curve.x.length > 1 ? "lines" : "markers", connectgaps: true,
      line: {color: shade(mode, first.size), width: 1.6}, marker: {color: shade(mode, first.size), size: 6, symbol: mode.symbol},
      hovertemplate: `<b>${escaped(mode.label)}</b><br>batch size ${first.size}, ${what}<br>`
        + `%{x:.4~g} ${ALONG[state.x]}, %{y:.3~r}<extra></extra>`,
    });
  }
  const isAccuracy = key === "accuracy";
  const shown = traces.flatMap(trace => trace.y);
  if (isAccuracy && tolerance().threshold !== null) shown.push(100 * tolerance().threshold);
  const x = axis(ALONG[state.x], state.logX, {range: limits(traces.flatMap(trace => trace.x), state.logX, 0.02), ...(state.logX ? {dtick: 1} : {nticks: narrow() ? 5 : 8})});
  const vertical = limits(shown, isLog);
  const y = axis(LABELS[key], isLog, {range: vertical, ...(isLog ? logTicks(vertical) : {})});
  $("right").style.height = `${heightOf("right")}px`;
  const view = [state.group, key, state.x, state.logX, isLog].join();
  Plotly.react("right", traces, layout("right", x, y, view), CONFIG);
  drawRightMarks();
  const title = LABELS[key].replace(/ \(.*/, "");
  $("right-title").textContent = `${capital(title)} in training`;
  const part = some.length < lines.size ? `${some.length} of ${lines.size} lines are drawn; filter to see others. ` : "";
  const thinned = group.rows.every > 1 ? `One epoch in ${group.rows.every} is drawn. ` : "";
  $("right-note").textContent = lines.size
    ? `${part}${thinned}A line is the mean over seeds of one mode and batch size, ${isDark() ? "brighter" : "darker"} for larger ones.`
    : ys ? "Nothing to draw: no run passes the filter." : "Not recorded epoch by epoch.";
  $("right").setAttribute("aria-label", `${title} against ${ALONG[state.x]}: ${lines.size} lines. ${$("right-note").textContent}`);
}

const times = (curve, factor) => factor === 1 ? curve : {x: curve.x, y: curve.y.map(value => value === null ? null : factor * value)};

function drawRightMarks() {
  if (!$("right").layout) return;
  const at = scales("right"), {box, x, y} = at, marks = [], key = curveKey();
  const limit = tolerance().threshold, goal = target().target;
  const hasTarget = key === "accuracy" && goal !== null && goal <= 1;
  if (key === "accuracy" && limit !== null) marks.push(...level(at, 100 * limit, "6 4", `threshold ${tolerance().shown}`));
  if (hasTarget) marks.push(...level(at, 100 * goal, "2 4", `target ${target().label}`, limit !== null && limit >= goal));
  const run = followed(), xs = group.rows[state.x], ys = group.rows[key];
  if (run !== null && xs && ys) {
    const points = range(run.end - run.start).map(place => run.start + place)
      .filter(row => xs[row] !== null && ys[row] !== null)
      .map(row => [x(xs[row]), y(scaled(key, ys[row]))]).filter(each => each.every(Number.isFinite));
    const clip = drawn("clipPath", {id: "inside"});
    clip.append(drawn("rect", {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top}));
    marks.push(clip, drawn("polyline", {points: points.map(each => each.map(value => value.toFixed(1))).join(" "), class: "followed", "clip-path": "url(#inside)"}));
  }
  overlay("right", marks);
}

const followed = () => {
  const at = hovered ?? state.run;
  return at === null || !isShown(group.runs[at]) ? null : group.runs[at];
};

const CONFIG = {displaylogo: false, responsive: true, displayModeBar: false, doubleClick: "reset"};

function drawMarks() {
  drawLeftMarks();
  drawRightMarks();
}

// ---- words

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
function swatch(mode) {
  const shapes = {
    circle: "<circle cx='7' cy='7' r='5'/>", square: "<rect x='2.5' y='2.5' width='9' height='9'/>",
    diamond: "<path d='M7 1 13 7 7 13 1 7z'/>", pentagon: "<path d='M7 1.5 12.7 5.7 10.5 12.4H3.5L1.3 5.7z'/>",
    hexagon: "<path d='M7 1.3 12 4.1V9.9L7 12.7 2 9.9V4.1z'/>",
    cross: "<path d='M5 1.5H9V5H12.5V9H9V12.5H5V9H1.5V5H5z'/>",
    star: "<path d='M7 1 8.7 5.2 13 5.4 9.6 8.2 10.8 12.5 7 10 3.2 12.5 4.4 8.2 1 5.4 5.3 5.2z'/>",
  };
  const made = element("span", {className: "swatch", ariaHidden: "true"});
  made.innerHTML = `<svg width="14" height="14" fill="${colour(mode)}">${shapes[mode.symbol]}</svg>`;
  return made;
}

/** The reasons of a mode's verdicts, those that are the same for several currencies together. */
function reasons(name) {
  const alike = new Map();
  for (const what of ["accuracy", "updates", "time"]) {
    const point = verdict(name, what);
    if (!point.reason || what === "accuracy" && point.estimate === null) continue; // the sentence says it
    alike.set(point.reason, [...(alike.get(point.reason) || []), what]);
  }
  return [...alike].map(([reason, whats]) => `${capital(whats.join(" and "))}: ${reason}.`);
}

function drawVerdicts() {
  const step = tolerance();
  $("tolerance-value").textContent = step.label;
  $("tolerance").setAttribute("aria-valuetext", step.label);
  $("target-value").textContent = target().label + (state.target === group.target.at ? " (default)" : "");
  $("target").setAttribute("aria-valuetext", target().label);
  $("threshold").textContent = step.threshold === null
    ? "No run of the reference is finished, so there is no accuracy to keep."
    : `Accuracy to keep: ${step.shown}${step.label === "given" ? ", as given" : `, with a tolerance of ${step.label}`}. `
      + (target().target === null ? "Without a target, updates and time are undetermined."
        : `Updates and time count to ${target().label}.`);
  const rows = group.modes.filter(mode => mode.is_compared).flatMap(mode => {
    const cells = ["accuracy", "updates", "time"].map(what => {
      const point = verdict(mode.name, what);
      const cell = element("td", {}, element("b", {textContent: point.shown}), element("span", {textContent: point.interval}));
      cell.dataset.currency = capital(what);
      return cell;
    });
    const name = element("th", {scope: "row"}, element("span", {className: "name"}, swatch(mode), mode.label));
    const said = [step.modes[mode.name].sentence, ...reasons(mode.name)].map(text => element("p", {textContent: text}));
    return [element("tr", {className: "points"}, name, ...cells),
      element("tr", {className: "said"}, element("td", {colSpan: 4}, ...said))];
  });
  $("points").tBodies[0].replaceChildren(...rows);
  $("points").hidden = !rows.length;
}

let saying;
/** For a screen reader, once a slider rests. */
function saySoon() {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const points = group.modes.filter(mode => mode.is_compared).map(mode => `${mode.label}: `
      + ["accuracy", "updates", "time"].map(what => `${what} ${verdict(mode.name, what).shown}`.replace("–", "undetermined")).join(", "));
    $("said").textContent = `${$("threshold").textContent} ${points.join(". ")}.`;
  }, 400);
}

const COLUMNS = [
  ["Batch size", run => run.size], ["Seed", run => run.seed], ["Status", run => run.status],
  ["Accuracy", run => shownValue("accuracy", run.accuracy), "accuracy"],
  ["Gen. error (points)", run => shownValue("generalization_error", run.generalization_error), "generalization_error"],
  ["Training loss", run => shownValue("train_loss", run.train_loss), "train_loss"],
  ["Test loss", run => shownValue("test_loss", run.test_loss), "test_loss"],
  ["Noise scale", run => shownValue("noise_scale", run.noise_scale), "noise_scale"],
  ["Updates", run => number(run.updates), "updates"], ["Time (s)", run => number(run.running_time), "running_time"],
];
let page = 0;

function drawTable() {
  const runs = shownRuns().sort((a, b) => a.mode - b.mode || a.size - b.size || a.seed - b.seed), pages = Math.max(1, Math.ceil(runs.length / PAGE));
  page = Math.min(page, pages - 1);
  const columns = COLUMNS.filter(([, , key]) => !key || group.runs.some(run => run[key] !== null));
  const isNumber = head => head !== "Status";
  const heads = ["Mode", ...columns.map(([head]) => head)].map(head =>
    element("th", {scope: "col", textContent: head, className: isNumber(head) && head !== "Mode" ? "number" : ""}));
  $("runs").tHead.replaceChildren(element("tr", {}, ...heads));
  $("runs").tBodies[0].replaceChildren(...runs.slice(page * PAGE, (page + 1) * PAGE).map(run => {
    const mode = group.modes[run.mode];
    const button = element("button", {type: "button", textContent: mode.label, onclick: () => choose(run.at),
      ariaPressed: String(state.run === run.at),
      ariaLabel: `Follow ${mode.label}, batch size ${run.size}, seed ${run.seed}`});
    button.dataset.run = run.at;
    const cells = columns.map(([head, shown]) =>
      element("td", {textContent: shown(run), className: isNumber(head) ? "number" : ""}));
    return element("tr", {className: state.run === run.at ? "chosen" : ""}, element("th", {scope: "row"}, button), ...cells);
  }));
  $("page").textContent = runs.length ? `${page * PAGE + 1}–${Math.min(runs.length, (page + 1) * PAGE)} of ${runs.length}` : "No run";
  $("previous").disabled = page === 0;
  $("next").disabled = page >= pages - 1;
  document.querySelector(".pages").hidden = pages === 1 && runs.length > 0;
  const cells = unique(runs.map(run => `${run.mode} ${run.size}`)).length;
  $("shown").textContent = `${runs.length} of ${group.runs.length} runs shown, ${cells} combinations of mode and batch size.`;
}

function drawRun() {
  const run = state.run === null ? null : group.runs[state.run];
  $("run").textContent = run === null ? "Choose a run in a view or in the table to follow it in both views."
    : `${facts(run).join(", ")}.`;
}

// ---- controls

function choose(at) {
  state.run = state.run === at ? null : at;
  hovered = null;
  drawMarks();
  drawTable();
  drawRun();
  document.querySelector(`#runs [data-run="${at}"]`)?.focus({preventScroll: true});
  saveSoon();
}

function fillFilter(id, key, label) {
  const values = group.values[key], box = $(id), list = element("div");
  const change = (to, redraw = true) => { state[key] = new Set(to); if (redraw) fillFilter(id, key, label); filtered(); };
  values.forEach((value, at) => {
    const input = element("input", {type: "checkbox", checked: state[key].has(value), value,
      onchange: () => { input.checked ? state[key].add(value) : state[key].delete(value); change(state[key], false); }});
    list.append(element("label", {}, input, ...label(value, at)));
  });
  const name = box.querySelector("legend").firstChild.textContent;
  const buttons = element("span", {}, ...[["all", values], ["none", []]].map(([text, to]) =>
    element("button", {type: "button", textContent: text, ariaLabel: `${name}: ${text}`,
      onclick: event => { const place = [...event.target.parentNode.children].indexOf(event.target); change(to);
        box.querySelectorAll("legend button")[place].focus(); }})));
  box.replaceChildren(element("legend", {}, element("span", {textContent: name}), buttons), list);
}

function filtered() {
  page = 0;
  drawLeft();
  drawRight();
  drawTable();
  saveSoon();
}

const options = (select, entries, chosen) => {
  select.replaceChildren(...entries.map(([value, text]) => element("option", {value, textContent: text})));
  select.value = chosen;
};

/** Set every control to the state, and draw everything. */
function show() {
  fill();
  drawLeft();
  drawRight();
}

/** All that needs no view: controls, words and tables. */
function fill() {
  document.documentElement.dataset.theme = state.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const title = $("settings").previousElementSibling;
  title.replaceChildren(all.title, element("small", {textContent: ` · ${group.runs.length} run${group.runs.length === 1 ? "" : "s"}`}));
  $("settings").textContent = group.settings;
  options($("group"), all.groups.map((each, at) => [at, each.label]), state.group);
  $("group-choice").hidden = all.groups.length === 1;
  options($("y"), group.quantities.map(key => [key, LABELS[key].replace(/ \(.*/, "")]), state.y);
  options($("x"), group.along.map(key => [key, ALONG[key]]), state.x);
  $("theme").value = state.theme;
  for (const key of ["tolerance", "target"]) {
    $(key).max = group[key].steps.length - 1;
    $(key).value = state[key];
    $(key).disabled = group[key].steps.length < 2;
  }
  $("log-size").checked = state.logSize;
  $("log-y").checked = isLogY();
  $("log-x").checked = state.logX;
  fillFilter("modes", "mode", (name, at) => [swatch(group.modes[at]), element("span", {textContent: group.modes[at].label})]);
  fillFilter("sizes", "size", value => [element("span", {textContent: value})]);
  fillFilter("seeds", "seed", value => [element("span", {textContent: value})]);
  $("remarks").hidden = !group.remarks.length;
  $("remarks").querySelector("ul").replaceChildren(...group.remarks.map(text => element("li", {textContent: `${capital(text)}.`})));
  drawVerdicts();
  drawTable();
  drawRun();
}

function slid(key) {
  state[key] = Number($(key).value);
  drawVerdicts();
  if (key === "target" && state.y in CURRENCY) { drawLeft(); drawRightMarks(); } else drawMarks();
  saySoon();
  saveSoon();
}

function listen() {
  const on = (id, event, action) => $(id).addEventListener(event, action);
  const set = (id, key, read, draw) => on(id, "change", () => { state[key] = read($(id)); draw(); saveSoon(); });
  const value = control => control.value, checked = control => control.checked;
  on("tolerance", "input", () => slid("tolerance"));
  on("target", "input", () => slid("target"));
  set("y", "y", value, () => { state.logY = null; $("log-y").checked = isLogY(); drawLeft(); drawRight(); });
  set("x", "x", value, drawRight);
  set("log-size", "logSize", checked, drawLeft);
  set("log-y", "logY", checked, () => { drawLeft(); drawRight(); });
  set("log-x", "logX", checked, drawRight);
  set("theme", "theme", value, show);
  on("group", "change", () => {
    const theme = state.theme;
    group = all.groups[Number($("group").value)];
    state = {...initial(Number($("group").value)), theme};
    page = 0;
    show();
    saveSoon();
  });
  on("reset", "click", () => {
    const theme = state.theme;
    state = {...initial(state.group), theme};
    page = 0;
    show();
    save();
  });
  on("copy", "click", async () => {
    save();
    let done = false;
    try { await navigator.clipboard.writeText(location.href); done = true; } catch { /* not allowed here */ }
    $("copy").textContent = done ? "Copied" : "See address bar";
    setTimeout(() => { $("copy").textContent = "Copy link"; }, 2000);
  });
  on("previous", "click", () => { page--; drawTable(); });
  on("next", "click", () => { page++; drawTable(); });
  $("left").on("plotly_hover", event => point(event, at => { hovered = at; drawMarks(); }));
  $("left").on("plotly_unhover", () => { hovered = null; drawMarks(); });
  for (const event of ["plotly_afterplot", "plotly_relayouting"]) {
    $("left").on(event, drawLeftMarks);
    $("right").on(event, drawRightMarks);
  }
  $("left").on("plotly_click", event => point(event, choose));
  window.addEventListener("hashchange", () => { state = viewOf(location.hash.slice(1)); page = 0; show(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.theme || show());
}
const point = (event, action) => { const at = event.points[0].customdata; if (typeof at === "number") action(at); };

async function main() {
  const plotly = unpacked("packed-plotly");
  all = JSON.parse(await unpacked("packed-contents"));
  all.groups.forEach(prepared);
  state = viewOf(location.hash.slice(1));
  if (window.innerWidth <= 900) $("filters").open = false;
  fill();
  const script = element("script", {textContent: await plotly});
  await new Promise(done => requestAnimationFrame(() => setTimeout(done))); // the verdicts can be read while Plotly starts, which takes a second
  document.head.append(script);
  show();
  listen();
  document.body.dataset.ready = "yes";
}

main().catch(error => {
  const isOld = typeof DecompressionStream === "undefined";
  $("failure").hidden = false;
  $("failure").textContent = isOld ? "This browser is too old for the explorer; one of 2023 or later is needed." : `The explorer failed: ${error.message}`;
  throw error;
});
