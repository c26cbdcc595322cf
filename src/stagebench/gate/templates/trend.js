"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const form = document.forms[0], charts = document.getElementById("charts"), fields = form.elements;
const dark = matchMedia("screen and (prefers-color-scheme: dark)"); // paper is white
const HEIGHT = 150, LEFT = 64, RIGHT = 10, TOP = 22, BOTTOM = 20;
let environment, drawn = [];

const ms = value => value.toLocaleString("en", {maximumSignificantDigits: 4}) + " ms";
const percent = ratio => (ratio > 1 ? "+" : "") + ((ratio - 1) * 100).toFixed(1) + " %";
const day = seconds => new Date(seconds * 1000).toISOString().slice(0, 10);
const minute = seconds => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function commit(id) {
  if (!/^[0-9a-f]{7,64}$/.test(id)) return element("span", "no commit");
  const short = id.slice(0, 7);
  return DATA.commits ? element("a", short, {href: DATA.commits + id}) : element("code", short);
}

// A stage's colour, towards black on paper and towards white in the dark, so that a thin line of it is seen.
function inkOf(color) {
  const [share, to] = dark.matches ? [0.45, 255] : [0.25, 0];
  return "rgb(" + [1, 3, 5].map(i => Math.round(parseInt(color.slice(i, i + 2), 16) * (1 - share) + to * share)) + ")";
}

// The levels between changes, the places where each begins and the last one ends, and the range that is drawn. That is as wide
// as the noise around all levels, and what is not rare: a single slow run would make all others a flat line.
function measure({ms: values, changes, noise}) {
  const sorted = Float64Array.from(values.filter(value => value !== null)).sort();
  const at = share => sorted[Math.round(share * (sorted.length - 1))], around = 4 * Math.max(noise, 0.005);
  const levels = changes.length ? [changes[0].before * 1e3, ...changes.map(change => change.after * 1e3)] : [at(0.5)];
  const last = values.findLastIndex(value => value !== null);
  const ends = [values.findIndex(value => value !== null), ...changes.map(change => change.at), last + 1];
  const low = Math.min(at(0.05), Math.min(...levels) * (1 - around));
  return {levels, ends, last, low: Math.max(0, low), high: Math.max(at(0.95), Math.max(...levels) * (1 + around))};
}

function triangle(context, x, y, up) {
  context.beginPath();
  context.moveTo(x - 4, y + (up ? 3 : -3));
  context.lineTo(x + 4, y + (up ? 3 : -3));
  context.lineTo(x, y + (up ? -4 : 4));
  context.fill();
}

function draw(chart) {
  const {canvas, series, levels, ends, low, high} = chart, values = series.ms, count = values.length;
  const width = canvas.clientWidth, ratio = devicePixelRatio || 1, context = canvas.getContext("2d");
  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name);
  const x = i => LEFT + (width - LEFT - RIGHT) * (count > 1 ? i / (count - 1) : 0.5);
  const y = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low);
  canvas.width = width * ratio;
  canvas.height = HEIGHT * ratio;
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";

  context.fillStyle = style("--soft");
  context.strokeStyle = style("--line");
  for (const share of [0.1, 0.5, 0.9]) {
    const value = low + share * (high - low), digits = Math.max(0, 2 - Math.floor(Math.log10(high - low)));
    context.textAlign = "right";
    context.fillText(value.toFixed(Math.min(digits, 6)), LEFT - 6, y(value) + 4);
    context.strokeRect(LEFT, y(value), width - LEFT - RIGHT, 0);
  }
  context.fillText("ms", LEFT - 6, TOP - 6);
  context.textAlign = "left";
  context.fillText(day(environment.when[0]), LEFT, HEIGHT - 4);
  context.textAlign = "right";
  if (count > 1) context.fillText(day(environment.when[count - 1]), width - RIGHT, HEIGHT - 4);

  context.save();
  context.beginPath();
  context.rect(LEFT - 4, TOP, width - LEFT - RIGHT + 8, HEIGHT - TOP - BOTTOM);
  context.clip();
  context.strokeStyle = context.fillStyle = inkOf(series.color);
  context.beginPath();
  let before = null;
  context.globalAlpha = count > width ? 0.6 : 1;
  values.forEach((value, i) => {
    if (value === null) return;
    if (before === null) context.moveTo(x(i), y(value));
    else context.lineTo(x(i), y(value));
    before = i;
    if (count < width / 4) context.fillRect(x(i) - 1.5, y(value) - 1.5, 3, 3);
  });
  context.stroke();
  context.restore();
  values.forEach((value, i) => {
    if (value !== null && (value > high || value < low)) triangle(context, x(i), value > high ? TOP + 4 : HEIGHT - BOTTOM - 4, value > high);
  });

  context.strokeStyle = style("--ink");
  context.lineWidth = 2;
  levels.forEach((level, i) => {
    context.beginPath();
    context.moveTo(x(ends[i]), y(level));
    context.lineTo(x(ends[i + 1] - 1), y(level));
    context.stroke();
  });
  context.lineWidth = 1;
  let free = 0;
  for (const change of series.changes) {
    const at = x(change.at), slower = change.ratio > 1, text = percent(change.ratio), room = context.measureText(text).width;
    context.fillStyle = context.strokeStyle = style(slower ? "--slower" : "--faster");
    context.setLineDash([3, 3]);
    context.strokeRect(at, TOP, 0, HEIGHT - TOP - BOTTOM);
    context.setLineDash([]);
    triangle(context, at, TOP - 5, slower);
    const right = at + 8 + room > width;
    if ((right ? at - 8 - room : at) < free) continue;
    context.textAlign = right ? "right" : "left";
    context.fillText(text, at + (right ? -8 : 8), TOP - 2);
    free = at + 12 + room;
  }
  if (chart.shown !== null) {
    context.strokeStyle = context.fillStyle = style("--ink");
    context.strokeRect(x(chart.shown), TOP, 0, HEIGHT - TOP - BOTTOM);
    if (values[chart.shown] !== null) context.fillRect(x(chart.shown) - 3, Math.min(Math.max(y(values[chart.shown]), TOP), HEIGHT - BOTTOM) - 3, 6, 6);
  }
}

function tell(chart, i) {
  const value = chart.series.ms[i], when = minute(environment.when[i]);
  const text = value === null ? when + ": not in this run" : when + ": " + ms(value) + ", ";
  chart.shown = i;
  chart.slider.value = i;
  chart.slider.setAttribute("aria-valuetext", text + commit(environment.commit[i]).textContent);
  chart.told.replaceChildren(text, ...(value === null ? [] : [commit(environment.commit[i]), environment.dirty.includes(i) ? ", changed" : ""]));
  draw(chart);
}

function listOf(changes) {
  const list = element("ul");
  for (const change of changes) {
    const item = element("li"), slower = change.ratio > 1;
    item.append(element("span", (slower ? "▲ " : "▼ ") + percent(change.ratio), {class: slower ? "slower" : "faster"}),
      " on " + day(environment.when[change.at]) + ", " + ms(change.before * 1e3) + " to " + ms(change.after * 1e3) + ", between ",
      commit(change.good), " and ", commit(change.bad), change.dirty ? ", not all committed" : "");
    if (change.bisect) {
      const how = element("details");
      how.append(element("summary", "How to find the commit"), element("code", change.bisect));
      item.append(how);
    }
    list.append(item);
  }
  return list;
}

function add(series) {
  const article = element("article"), canvas = element("canvas"), count = series.ms.length;
  const found = measure(series), noise = series.noise === null ? "" : ", noise " + (series.noise * 100).toFixed(1) + " %";
  const said = ms(series.ms[found.last]) + " on " + day(environment.when[found.last]) + noise;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", series.name + ": " + said + "; changes: " + (series.changes.map(c => percent(c.ratio) + " on " + day(environment.when[c.at])).join(", ") || "none"));
  const slider = element("input", "", {type: "range", min: 0, max: count - 1, "aria-label": "Run of " + series.name});
  const chart = {article, canvas, series, slider, told: element("p", said), shown: null, ...found};
  slider.value = count - 1;
  slider.addEventListener("input", () => tell(chart, Number(slider.value)));
  canvas.addEventListener("pointermove", event => {
    const share = (event.offsetX - LEFT) / (canvas.clientWidth - LEFT - RIGHT);
    tell(chart, Math.round(Math.min(Math.max(share, 0), 1) * (count - 1)));
  });
  article.append(element("h3", series.name), canvas, slider, chart.told, listOf(series.changes));
  charts.append(article);
  canvas.chart = chart;
  drawn.push(chart);
  seen.observe(canvas);
}

// Only what is on the screen is drawn, and again when its width changes.
const seen = new IntersectionObserver(entries => entries.forEach(entry => entry.isIntersecting && draw(entry.target.chart)), {rootMargin: "200px"});
addEventListener("beforeprint", () => drawn.forEach(draw));
const redraw = () => drawn.forEach(chart => { seen.unobserve(chart.canvas); seen.observe(chart.canvas); });
addEventListener("resize", redraw);
dark.addEventListener("change", () => drawn.forEach(draw)); // at once, because a page is printed as soon as it is no screen

function choose(select, all, values) {
  const before = select.value;
  select.replaceChildren(...(all ? [new Option(all, "")] : []), ...values.map(each => new Option(...[].concat(each))));
  select.value = before;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

function show() {
  environment = DATA.environments[fields.machine.value];
  for (const key of ["model", "stage"]) {
    choose(fields[key], "All", [...new Set(environment.series.map(series => series[key]).filter(Boolean))]);
  }
  const fits = series => ["model", "stage"].every(key => !fields[key].value || fields[key].value === series[key])
    && (!fields.changed.checked || series.changes.length);
  const kept = environment.series.filter(fits);
  seen.disconnect();
  drawn = [];
  charts.replaceChildren();
  kept.forEach(add);
  fields.count.value = kept.length + " of " + environment.series.length + " benchmarks, " + environment.when.length + " runs";
  history.replaceState(null, "", "#" + new URLSearchParams(new FormData(form)));
}

choose(fields.machine, "", DATA.environments.map((each, i) => [each.label, i]));
const asked = new URLSearchParams(location.hash.slice(1));
if (asked.has("machine")) fields.machine.value = asked.get("machine");
if (fields.machine.selectedIndex < 0) fields.machine.selectedIndex = 0;
fields.changed.checked = asked.has("changed");
for (const key of ["model", "stage"]) choose(fields[key], "All", [asked.get(key) || ""]);
for (const key of ["model", "stage"]) fields[key].value = asked.get(key) || "";
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
